from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.model.devices import ClientId, parse_client_id
from app.model.globs import common_client_id, matches

SMALL = st.text("ab*", max_size=8)
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


@given(glob=SMALL, text=st.text("ab", max_size=8))
def test_a_glob_matches_what_the_regular_expression_does(glob: str, text: str) -> None:
    """``*`` stands for any characters, also none, and everything else for itself."""
    expression = ".*".join(map(re.escape, glob.split("*")))
    assert matches(glob, text) == bool(re.fullmatch(expression, text))


@pytest.mark.parametrize("glob", ["GID_plant@@@.*", "GID_plant@@@?", "GID_plant@@@[d]", "gid_plant@@@d"])
def test_nothing_but_the_star_is_special(glob: str) -> None:
    """A glob is no regular expression, and letters keep their case."""
    assert not matches(glob, "GID_plant@@@d")


@settings(max_examples=200)
@given(st.data())
def test_two_globs_of_one_client_id_are_found_to_have_one_in_common(data: st.DataObject) -> None:
    """Where there is a common client ID one is found, and it is well-formed and matched by both."""
    client_id = data.draw(CLIENT_IDS)
    one, other = data.draw(globs_of(client_id)), data.draw(globs_of(client_id))
    found = common_client_id(one, other)
    assert found is not None
    assert parse_client_id(found) == found
    assert matches(one, found)
    assert matches(other, found)


@settings(max_examples=200)
@given(one=CLIENT_IDS.flatmap(globs_of), other=CLIENT_IDS.flatmap(globs_of), client_id=CLIENT_IDS)
@example(one="GID_a*", other="GID-*", client_id=ClientId("GID_aaa@@@a"))
def test_where_none_is_found_no_client_id_matches_both(one: str, other: str, client_id: ClientId) -> None:
    """An answer that there is no common client ID is never wrong; an answer that there is one proves itself."""
    found = common_client_id(one, other)
    if found is None:
        assert not (matches(one, client_id) and matches(other, client_id))
    else:
        assert matches(one, parse_client_id(found))
        assert matches(other, found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GID_*", "GID-*"),
        ("GID_a*", "GID_b*"),
        ("GID_plant@@@a*", "GID_plant@@@b*"),
        ("GID_plant@@@" + "a" * 26 + "*", "*" + "b" * 27),
        ("GID_ab@@@*", "*"),
        ("plant*", "*"),
        ("*", "GID_plant@@@"),
        ("*@@@*/*", "*"),
    ],
)
def test_globs_without_a_client_id_in_common_do_not_overlap(one: str, other: str) -> None:
    """Also where strings in common exist that are no client IDs: too long, a group too short, nothing after @@@."""
    assert common_client_id(one, other) is None
    assert common_client_id(other, one) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GID_plant@@@*", "*@@@x"),
        ("*", "*"),
        ("GID_plant@@@*", "GID_plant@@@*"),
        ("*a*b*", "*b*a*"),
        ("GID_plant@@@d1", "*1"),
        ("GID_plant@@@" + "a" * 26 + "*", "*" + "b" * 26),
    ],
)
def test_globs_with_a_client_id_in_common_overlap(one: str, other: str) -> None:
    """Down to the last of the 64 characters."""
    found = common_client_id(one, other)
    assert found is not None
    assert matches(one, parse_client_id(found))
    assert matches(other, found)
