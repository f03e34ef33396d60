from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.selections import MalformedSelection, Selection, SelectionKind
from tests.model.brute import matched

WORLD = ("a", "A", "x", "a/x", "A/a", "a/+", "+/x", "a/#", "x/#", "+", "+/+")


@pytest.mark.parametrize(
    ("texts", "kind", "value"),
    [
        ({"handle": "07-x"}, SelectionKind.HANDLE, "07-x"),
        ({"client_id": "GID_plant@@@d1"}, SelectionKind.CLIENT_ID, "GID_plant@@@d1"),
        ({"role": "sensor"}, SelectionKind.ROLE, "sensor"),
        ({"topic": "plant7/#"}, SelectionKind.TOPIC, "plant7/#"),
        ({"topic": "pub:plant7/+/x"}, SelectionKind.TOPIC, "pub:plant7/+/x"),
        ({"topic": "sub:#"}, SelectionKind.TOPIC, "sub:#"),
        ({"everything": True}, SelectionKind.EVERYTHING, ""),
    ],
)
def test_a_selection_is_read_and_written(texts: dict[str, object], kind: SelectionKind, value: str) -> None:
    """What a caller names is kept as it is, and its text can be read back."""
    selection = Selection.parse(**texts)  # type: ignore[arg-type]
    assert (selection.kind, selection.value) == (kind, value)
    assert Selection.from_text(str(selection)) == selection


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({}, "by exactly one"),
        ({"role": "sensor", "topic": "a"}, "by exactly one"),
        ({"role": "sensor", "everything": True}, "by exactly one"),
        ({"role": ""}, "role is empty"),
        ({"topic": ""}, "topic is empty"),
        ({"handle": ""}, "handle is empty"),
        ({"client_id": "plant"}, "GID_group@@@device"),
        ({"topic": "pub:"}, "empty"),
        ({"topic": "a/#/b"}, "before its last level"),
        ({"topic": "a b"}, "character"),
        ({"topic": "$SYS/#"}, "belong to the broker"),
        ({"topic": "read:a"}, "parent topic"),
        ({"topic": "#"}, "selects all tokens"),
        ({"topic": "+/#"}, "selects all tokens"),
        ({"role": "*"}, "not a valid role name"),
        ({"role": "#"}, "not a valid role name"),
        ({"role": "x" * 10_000}, "not a valid role name"),
        ({"topic": "x" * 10_000}, "at most 64"),
    ],
)
def test_a_wrong_selection_is_refused(texts: dict[str, object], complaint: str) -> None:
    """Nothing, two things at once, or everything by a slip selects nothing; the refusal says what is wrong."""
    with pytest.raises(MalformedSelection, match=complaint):
        Selection.parse(**texts)  # type: ignore[arg-type]


def share_a_topic(one: str, other: str) -> bool:
    """Tell by trying whether some topic lies in both, parent topics without case."""
    return not folded(one).isdisjoint(folded(other))


def folded(topic_filter: str) -> set[str]:
    """Return the topics of a small world that lie in a filter, their parents in lower case."""
    parted = (topic.partition("/") for topic in matched(topic_filter, 3))
    return {f"{parent.lower()}{slash}{rest}" for parent, slash, rest in parted}


@given(
    scope=st.lists(st.tuples(st.sampled_from(["pub", "sub"]), st.sampled_from(WORLD)), min_size=1, max_size=4),
    verb=st.sampled_from(["", "pub", "sub"]),
    wanted=st.sampled_from(WORLD),
)
def test_a_topic_reaches_what_overlaps(scope: list[tuple[str, str]], verb: str, wanted: str) -> None:
    """A scope is meant if one of its permissions of that verb shares a topic with the filter, found by trying all."""
    selection = Selection.of_topic(f"{verb}:{wanted}" if verb else wanted)
    text = " ".join(f"{each}:{topic_filter}" for each, topic_filter in scope)
    expected = any(verb in {"", each} and share_a_topic(wanted, topic_filter) for each, topic_filter in scope)
    assert selection.reaches(text) is expected
