from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.model.devices import ClientId
from app.model.globs import glob_matches, may_match_client_id, may_overlap

CLIENT_IDS = st.builds(
    "GID{}{}@@@{}".format,
    st.sampled_from("_-"),
    st.text("ab_", min_size=3, max_size=5),
    st.text("ab@.", min_size=1, max_size=5),
).map(ClientId)


@st.composite
def globs_of(draw: st.DrawFn, client_id: str) -> str:
    """Put ``*`` in place of pieces of a client ID."""
    text = client_id
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + "*" + text[start + draw(st.integers(0, 6)) :]
    return text


@given(glob=st.text("ab:*?", max_size=8), text=st.text("ab:*", max_size=8))
def test_a_glob_matches_what_the_regular_expression_does(glob: str, text: str) -> None:
    """``*`` stands for any characters, ``?`` for one, and everything else for itself."""
    expression = re.escape(glob).replace(r"\*", ".*").replace(r"\?", ".")
    assert glob_matches(glob, text) == bool(re.fullmatch(expression, text))


@pytest.mark.parametrize("glob", ["GID_plant@@@.*", "GID_plant@@@[d]", "gid_plant@@@d"])
def test_nothing_else_in_a_glob_is_special(glob: str) -> None:
    """A glob is not a regular expression, and letters keep their case."""
    assert not glob_matches(glob, "GID_plant@@@d")


def test_no_glob_takes_long() -> None:
    """A glob made to be slow is decided in moments (a backtracking matcher would not end)."""
    began = time.process_time()
    assert not glob_matches("*a" * 500 + "b", "a" * 1000)
    assert time.process_time() - began < 2


@settings(max_examples=200)
@given(st.data())
def test_two_globs_of_one_client_id_may_overlap(data: st.DataObject) -> None:
    """Where a client ID matches both, that is found: no overlap is left out."""
    client_id = data.draw(CLIENT_IDS)
    one, other = data.draw(globs_of(client_id)), data.draw(globs_of(client_id))
    assert may_overlap(one, other)
    assert may_match_client_id(one)


@settings(max_examples=200)
@given(one=CLIENT_IDS.flatmap(globs_of), other=CLIENT_IDS.flatmap(globs_of), client_id=CLIENT_IDS)
@example(one="GID_a*", other="GID-*", client_id=ClientId("GID_aaa@@@a"))
def test_where_no_overlap_is_found_no_client_id_matches_both(one: str, other: str, client_id: ClientId) -> None:
    """An answer that two globs do not overlap is never wrong, whichever of them comes first."""
    assert may_overlap(one, other) is may_overlap(other, one)
    if not may_overlap(one, other):
        assert not (glob_matches(one, client_id) and glob_matches(other, client_id))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GID_*", "GID-*"),
        ("GID_a*", "GID_b*"),
        ("GID_plant@@@a*", "GID_plant@@@b*"),
        ("*a", "*b"),
        ("GID_plant@@@d1", "GID_plant@@@d2"),
        ("GID_plant@@@d1", "*2"),
    ],
)
def test_globs_that_begin_or_end_differently_do_not_overlap(one: str, other: str) -> None:
    """Beginnings, ends and client IDs without ``*`` tell two globs apart."""
    assert not may_overlap(one, other)
    assert not may_overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("GID_plant@@@" + "a" * 26 + "*", "*" + "b" * 27), ("GID_plant@@@*", "*plant@@@x"), ("*/*", "*")],
)
def test_an_overlap_in_no_valid_client_id_is_reported_all_the_same(one: str, other: str) -> None:
    """Length and grammar of client IDs are not looked at: a warning too much, never one too few."""
    assert may_overlap(one, other)


@pytest.mark.parametrize("glob", ["plant*", "gid_*", "GID_plant", "GID+*"])
def test_a_glob_that_matches_no_client_id_is_noticed(glob: str) -> None:
    """A client ID begins with ``GID_`` or ``GID-`` and contains ``@@@``."""
    assert not may_match_client_id(glob)
