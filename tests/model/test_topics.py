from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.model.topics import (
    MalformedTopic,
    covers,
    covers_below,
    matches,
    overlaps,
    parse_filter,
    quoted,
)
from tests.model import brute

DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*")  # RFC 6749 5.2, error_description


def _fold(topic: str) -> str:
    parent, slash, rest = topic.partition("/")
    return parent.lower() + slash + rest


def test_a_topic_lies_in_a_filter_exactly_where_section_4_7_says_so() -> None:
    """Matching agrees with the specification for every filter of three levels and every topic of four."""
    for topic_filter in brute.filters(3):
        inside = brute.matched(topic_filter, 4)
        assert {topic for topic in brute.topics(4) if matches(topic_filter, topic)} == inside


def test_coverage_and_overlap_are_exact_for_every_pair_of_small_filters() -> None:
    """Coverage is inclusion of topics and overlap is a common topic, for all pairs of filters of up to three levels."""
    known = {topic_filter: brute.matched(topic_filter, 4) for topic_filter in brute.filters(3)}
    folded = {topic_filter: frozenset(map(_fold, inside)) for topic_filter, inside in known.items()}
    for one, other in product(known, repeat=2):
        assert covers(one, other) == (known[other] <= known[one]), (one, other)
        assert overlaps(one, other) == (not folded[one].isdisjoint(folded[other])), (one, other)


@settings(max_examples=400)
@given(brute.alike())
def test_coverage_holds_if_and_only_if_every_topic_of_one_lies_in_the_other(pair: tuple[str, str]) -> None:
    """Coverage of filters of four levels says what matching all topics of five levels says."""
    wide, narrow = pair
    assert covers(wide, narrow) == (brute.matched(narrow, 5) <= brute.matched(wide, 5))


@settings(max_examples=400)
@given(brute.alike())
def test_overlap_holds_if_and_only_if_some_topic_lies_in_both(pair: tuple[str, str]) -> None:
    """Overlap of filters of four levels says what matching all topics says, the first level without case."""
    one, other = pair
    both = {_fold(topic) for topic in brute.matched(one, 5)} & {_fold(topic) for topic in brute.matched(other, 5)}
    assert overlaps(one, other) == bool(both)
    assert overlaps(other, one) == bool(both)


@given(brute.alike(3))
def test_coverage_below_holds_however_the_cloud_reads_the_parent_rule(pair: tuple[str, str]) -> None:
    """What is dropped for being covered below is covered whether or not ``a/#`` reaches ``a``."""
    wide, narrow = pair
    if covers_below(wide, narrow):
        for reaches in (True, False):
            inside = brute.matched(narrow, 4, hash_reaches_parent=reaches)
            assert inside <= brute.matched(wide, 4, hash_reaches_parent=reaches)


def test_the_parent_rule_alone_does_not_cover_below() -> None:
    """``a/#`` covers ``a`` by section 4.7.1.2, and not below."""
    assert covers("a/#", "a")
    assert not covers_below("a/#", "a")
    assert covers_below("a/#", "a/b")


@pytest.mark.parametrize(
    "text", ["a", "+", "#", "+/a", "a/+/#", "a//b", "a/", "Plant-1_x/ü".replace("ü", "~!*'();:@&=")]
)
def test_what_section_4_7_and_the_cloud_allow_is_a_filter(text: str) -> None:
    """A filter within the cloud's limits is taken as it is."""
    assert parse_filter(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("a/" + "b" * 63, "65 characters"),
        ("a b", "character"),
        ("a,b", "character"),
        ('a"b', "character"),
        ("a\\b", "character"),
        ("a\n", "character"),
        ("a\0", "character"),
        ("ä", "character"),
        ("$SYS/uploadToken", "begins with $"),
        ("a+/b", "level of its own"),
        ("a/b#", "level of its own"),
        ("a/#/b", "before its last"),
        ("#/a", "before its last"),
        ("/a", "parent topic"),
        ("a.b/c", "parent topic"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_reason(text: str, why: str) -> None:
    """A malformed filter is refused, in a sentence fit for ``error_description``."""
    with pytest.raises(MalformedTopic, match=re.escape(why)) as refusal:
        parse_filter(text)
    assert DESCRIPTION.fullmatch(str(refusal.value))


def test_the_longest_topic_of_the_cloud_is_a_filter() -> None:
    """64 characters are allowed."""
    assert parse_filter("a/" + "b" * 62)


@given(st.text())
def test_any_text_can_be_quoted_in_an_answer(text: str) -> None:
    """Whatever a stranger sent, what is quoted of it keeps to RFC 6749 5.2 and is short."""
    assert DESCRIPTION.fullmatch(quoted(text))
    assert len(quoted(text)) < 80
