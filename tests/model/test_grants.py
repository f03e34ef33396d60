from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.model.grants import (
    MAX_FILTERS,
    MAX_SCOPE_CHARS,
    Grant,
    MalformedScope,
    TokenType,
    TooManyFilters,
    parse_scope,
)
from app.model.topics import TopicFilter, parse_filter
from app.rpc.catalog import MAX_RESOURCES
from tests.model import brute
from tests.model.test_topics import DESCRIPTION

FILTERS = brute.some_filters(3, letters=("a", "A")).map(parse_filter)
SIDES = st.lists(FILTERS, max_size=8)
GRANTS = st.builds(Grant.of, SIDES, SIDES)


def _topics(filters: list[TopicFilter] | tuple[TopicFilter, ...], *, hash_reaches_parent: bool = True) -> set[str]:
    sets = (brute.matched(text, 4, hash_reaches_parent=hash_reaches_parent) for text in filters)
    return set().union(*sets)


@given(publish=SIDES, subscribe=SIDES)
def test_a_canonical_grant_permits_exactly_what_the_original_did(
    publish: list[TopicFilter], subscribe: list[TopicFilter]
) -> None:
    """No topic is lost or won by the canonical form, whether or not the cloud lets ``a/#`` reach ``a``."""
    grant = Grant.of(publish, subscribe)
    for reaches in (True, False):
        assert _topics(grant.publish, hash_reaches_parent=reaches) == _topics(publish, hash_reaches_parent=reaches)
        assert _topics(grant.subscribe, hash_reaches_parent=reaches) == _topics(subscribe, hash_reaches_parent=reaches)


@given(GRANTS)
def test_a_grant_round_trips_through_its_scope(grant: Grant) -> None:
    """The scope of a grant is read back into an equal grant with the same text."""
    assume(grant)
    assert parse_scope(grant.scope) == grant
    assert parse_scope(grant.scope).scope == grant.scope


@given(GRANTS, st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_permissions_change_nothing(grant: Grant, random: object) -> None:
    """Two scopes that name the same permissions are one grant, so they share one token."""
    assume(grant)
    permissions = [*grant.permissions(), *grant.permissions()]
    random.shuffle(permissions)  # type: ignore[attr-defined]
    assert parse_scope(" ".join(permissions)) == grant


@given(GRANTS)
def test_a_canonical_grant_has_no_permission_that_another_covers_below(grant: Grant) -> None:
    """Each side is sorted in byte order, and each filter permits a topic that the others of its side do not."""
    for side in (grant.publish, grant.subscribe):
        assert list(side) == sorted(side, key=str.encode)
        for narrow in side:
            for wide in set(side) - {narrow}:
                assert not all(
                    brute.matched(narrow, 4, hash_reaches_parent=reaches)
                    <= brute.matched(wide, 4, hash_reaches_parent=reaches)
                    for reaches in (True, False)
                )


@given(GRANTS, GRANTS)
def test_a_grant_that_covers_another_permits_all_its_topics(wide: Grant, narrow: Grant) -> None:
    """Coverage allows nothing that the wider grant does not permit; what is not covered is named."""
    if wide.covers(narrow):
        assert _topics(narrow.publish) <= _topics(wide.publish)
        assert _topics(narrow.subscribe) <= _topics(wide.subscribe)
    else:
        verb, _, topic_filter = (wide.first_uncovered(narrow) or "").partition(":")
        assert topic_filter in {"pub": narrow.publish, "sub": narrow.subscribe}[verb]
        side = {"pub": wide.publish, "sub": wide.subscribe}[verb]
        assert not any(brute.matched(topic_filter, 4) <= brute.matched(covering, 4) for covering in side)


@given(GRANTS)
def test_the_cloud_tokens_of_a_grant_together_permit_exactly_the_grant(grant: Grant) -> None:
    """Reading is permitted exactly where the grant subscribes and writing exactly where it publishes."""
    tokens = grant.split()
    assert _topics([text for type_, side in tokens if "R" in type_ for text in side]) == _topics(grant.subscribe)
    assert _topics([text for type_, side in tokens if "W" in type_ for text in side]) == _topics(grant.publish)
    assert len({type_ for type_, _ in tokens}) == len(tokens)


def test_a_grant_splits_by_the_rule_of_one_permission_kind_for_one_token() -> None:
    """Equal sides make one RW token, other sides one each, and an empty side none."""
    a, b = parse_filter("a"), parse_filter("b")
    assert Grant.of([b, a], [a, b]).split() == ((TokenType.RW, (a, b)),)
    assert Grant.of([a], [a, b]).split() == ((TokenType.R, (a, b)), (TokenType.W, (a,)))
    assert Grant.of([a]).split() == ((TokenType.W, (a,)),)
    assert Grant.of((), [a]).split() == ((TokenType.R, (a,)),)
    assert Grant.of().split() == ()
    assert not Grant.of()


def test_a_filter_is_kept_beside_the_one_that_covers_it_by_the_parent_rule_alone() -> None:
    """``a`` is kept beside ``a/#``, and ``a/b`` is not."""
    assert parse_scope("sub:a/b sub:a/# sub:a sub:a/+").scope == "sub:a sub:a/#"


def test_actions_are_written_as_the_guide_writes_them() -> None:
    """ApplyToken's Actions for both is ``R,W``, and the password says RW."""
    assert [type_.actions for type_ in TokenType] == ["R", "W", "R,W"]
    assert str(TokenType.RW) == "RW"


@pytest.mark.parametrize(
    ("scope", "named", "cure"),
    [
        ("", "empty", "leave it out"),
        ("   ", "empty", "leave it out"),
        ("sub:a/ ", "sub:a/", "%2B"),
        (" sub:a", "sub:a", "%2B"),
        ("sub:a/  pub:b", "sub:a/", "%2B"),
        ("sub: /b", "sub:", "%2B"),
        ("sub:a/ /b", "/b", "%2B"),
        ("pub:", "pub:", "add one"),
        ("read:a", "read:a", "pub:FILTER"),
        ("SUB:a", "SUB:a", "pub:FILTER"),
        ("sub", "sub", "pub:FILTER"),
        ("a/b", "a/b", "pub:FILTER"),
        ("pub:a sub:b,c", "sub:b,c", "write a permission for each"),
        ("sub:$SYS/#", "sub:$SYS/#", "begins with $"),
        ("sub:a/#/b", "sub:a/#/b", "# before its last level"),
        ("sub:a+", "sub:a+", "level of its own"),
        ("sub:a\tpub:b", "sub:a?pub:b", "character"),
        ("sub:a\nb", "sub:a?b", "character"),
        ("sub:\x00", "sub:?", "character"),
        ("sub:ä", "sub:?", "character"),
        ('sub:"', "sub:?", "character"),
        ("sub:" + "a" * 65, "sub:" + "a" * 60, "64"),
        ("x" * (MAX_SCOPE_CHARS + 1), "13801 characters", "13800"),
    ],
)
def test_a_malformed_scope_is_refused_naming_the_permission_and_the_cure(scope: str, named: str, cure: str) -> None:
    """The sentence says which permission is wrong and what to do."""
    with pytest.raises(MalformedScope, match=re.escape(named)) as refusal:
        parse_scope(scope)
    assert cure in str(refusal.value)


@given(GRANTS)
def test_a_scope_whose_plus_signs_became_spaces_is_never_taken_for_another(grant: Grant) -> None:
    """A raw + in a form, which arrives as a space, is refused with the hint wherever it stood."""
    assume("+" in grant.scope)
    with pytest.raises(MalformedScope, match="%2B"):
        parse_scope(grant.scope.replace("+", " "))


def _read(text: str) -> Grant | str:
    try:
        return parse_scope(text)
    except MalformedScope as refusal:
        return str(refusal)


@given(st.text() | st.text("pubs:/+#$ ,a\t"))
def test_any_text_is_a_grant_or_a_refusal_fit_for_an_answer(text: str) -> None:
    """Nothing but ``MalformedScope`` is raised, and its sentence keeps to RFC 6749 5.2."""
    answer = _read(text)
    if isinstance(answer, Grant):
        assert parse_scope(answer.scope) == answer
    else:
        assert DESCRIPTION.fullmatch(answer)


def test_a_hundred_filters_a_verb_are_a_grant_and_one_more_is_not() -> None:
    """The cloud's cap of 100 topics in a token holds for each verb, and is the catalog's."""
    hundred = [f"{verb}:t/{number}" for verb in ("pub", "sub") for number in range(MAX_FILTERS)]
    assert len(parse_scope(" ".join(hundred)).subscribe) == MAX_FILTERS == MAX_RESOURCES
    with pytest.raises(MalformedScope, match="'sub:t/100'"):
        parse_scope(" ".join([*hundred, "sub:t/100"]))
    with pytest.raises(TooManyFilters):
        Grant.of([parse_filter(f"t/{number}") for number in range(MAX_FILTERS + 1)])


def test_the_longest_grant_there_is_can_be_asked_for() -> None:
    """A scope of 200 filters of 64 characters is within the limit on the scope's length."""
    longest = [f"{verb}:{number:064}" for verb in ("pub", "sub") for number in range(MAX_FILTERS)]
    assert len(" ".join(longest)) < MAX_SCOPE_CHARS
    assert parse_scope(" ".join(longest)).scope == " ".join(longest)
