"""Several ordered lists are read as one, each item once, in bounded round trips."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from app.store.merging import MergedLists, NextPart, ReadPart

Item = tuple[int, int, int]
"""A number to be ordered by, the list, and the position in it."""


class Lists:
    """Lists as Redis would return them: it can only be asked from a number on, so that equal ones come again."""

    def __init__(self, numbers: list[list[int]]) -> None:
        self.items = [
            [(number, which, place) for place, number in enumerate(sorted(one))] for which, one in enumerate(numbers)
        ]
        self.round_trips: list[int] = []
        self.returned = 0

    async def read(self, parts: Sequence[NextPart[int, Item]]) -> list[ReadPart[Item]]:
        """Read in one round trip."""
        self.round_trips.append(sum(part.count for part in parts))
        return [self._read(part) for part in parts]

    def _read(self, part: NextPart[int, Item]) -> ReadPart[Item]:
        least = part.after[0] if part.after else 0
        found = [item for item in self.items[part.key] if item[0] >= least][: part.count]
        self.returned += len(found)
        return ReadPart(
            [item for item in found if part.after is None or item > part.after], is_last=len(found) < part.count
        )

    def merged(self, at_once: int = 200) -> MergedLists[int, Item]:
        """Return all of them as one."""
        return MergedLists(range(len(self.items)), self.read, order=lambda item: item, at_once=at_once)


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=40), min_size=1, max_size=12),
    st.integers(12, 60),
    st.integers(1, 20),
)
async def test_all_items_come_once_and_in_order(numbers: list[list[int]], at_once: int, count: int) -> None:
    """However many are taken at a time, however unequal the lists, and however many items are equal."""
    lists = Lists(numbers)
    merged, taken = lists.merged(at_once), list[Item]()
    while items := await merged.take(count):
        assert len(items) <= count
        taken += items
    assert taken == sorted(item for one in lists.items for item in one)


async def test_a_round_trip_is_bounded_and_little_is_read_twice() -> None:
    """Sixty-four lists of a hundred items: no round trip reads more than its bound, and all of them read each once."""
    lists = Lists([list(range(which, 6400, 64)) for which in range(64)])
    merged = lists.merged()
    assert len(await merged.take(6400)) == 6400
    assert max(lists.round_trips) <= 200
    assert lists.returned < 1.1 * 6400 + 64
    assert len(lists.round_trips) < 300


async def test_the_first_items_need_one_round_trip() -> None:
    """A page of fifty of sixty-four long lists."""
    lists = Lists([list(range(which, 64_000, 64)) for which in range(64)])
    assert len(await lists.merged().take(50)) == 50
    assert len(lists.round_trips) == 1
