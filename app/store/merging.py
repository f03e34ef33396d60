"""Several ordered lists in Redis, such as the index of each shard, read as one ordered list.

Each list is read in parts, and what was read is kept until it is its turn. So nothing is read twice, and one round trip
reads a bounded number of items of all lists together: however long they are, none holds Redis up for long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, Generic, NamedTuple, TypeVar

READ_AT_ONCE: Final = 200
"""Items that one round trip reads. That takes Redis 0.1 to 0.5 ms."""

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class NextPart(Generic[_Key, _Item]):
    """Which part of a list to read: ``count`` items behind ``after``; None: from the beginning."""

    key: _Key
    after: _Item | None
    count: int


class ReadPart(NamedTuple, Generic[_Item]):
    """The items that were read; ``is_last``: nothing is behind them. Without items and not the last: read a longer."""

    items: Sequence[_Item]
    is_last: bool


@dataclass(slots=True)
class _List(Generic[_Key, _Item]):
    """A list: the items that were read and not taken yet, the last item read, and how many to read next."""

    key: _Key
    count: int
    items: deque[_Item] = field(default_factory=deque)
    last: _Item | None = None
    is_at_end: bool = False

    @property
    def is_short(self) -> bool:
        """Whether it has to be read before more than one of its items can be taken."""
        return len(self.items) < 2 and not self.is_at_end  # noqa: PLR2004 (see above)

    def add(self, part: ReadPart[_Item], at_once: int) -> None:
        """Add what was read; the longer a list turns out to be, the longer the next part."""
        self.items.extend(part.items)
        self.is_at_end = part.is_last
        if part.items:
            self.last = part.items[-1]
            self.count = max(self.count, min(2 * self.count, at_once))
        else:
            self.count *= 2


class MergedLists(Generic[_Key, _Item]):
    """The items of several lists, in the order of all."""

    def __init__(
        self,
        keys: Sequence[_Key],
        read: Callable[[Sequence[NextPart[_Key, _Item]]], Awaitable[Iterable[ReadPart[_Item]]]],
        *,
        order: Callable[[_Item], Any],
        at_once: int = READ_AT_ONCE,
    ) -> None:
        """Read by ``read``, in one round trip; every list is in the order of ``order`` already."""
        self._lists = [_List[_Key, _Item](key, max(1, at_once // len(keys))) for key in keys]
        self._read = read
        self._order = order
        self._at_once = at_once
        self._first: list[tuple[Any, int]] = []
        self._unread = list(range(len(keys)))

    async def take(self, count: int) -> list[_Item]:
        """Return the next ``count`` items; fewer only at the end. Raises as ``read``."""
        taken: list[_Item] = []
        while len(taken) < count:
            while self._unread:
                await self._read_on()
            if not self._first:
                break
            _, number = heappop(self._first)
            one = self._lists[number]
            taken.append(one.items.popleft())
            if one.items:
                heappush(self._first, (self._order(one.items[0]), number))
            elif not one.is_at_end:
                self._unread.append(number)
        return taken

    async def _read_on(self) -> None:
        """Read the lists that have no item left, and as far as there is room those that soon have none."""
        wanted = [self._lists[number] for number in self._unread]
        room = self._at_once - sum(each.count for each in wanted)
        for each in self._lists:
            if each.items and each.is_short and each.count <= room:
                wanted.append(each)
                room -= each.count
        parts = await self._read([NextPart(each.key, each.last, each.count) for each in wanted])
        for each, part in zip(wanted, parts, strict=True):
            each.add(part, self._at_once)
        for number in self._unread:
            if items := self._lists[number].items:
                heappush(self._first, (self._order(items[0]), number))
        self._unread = [
            number for number in self._unread if not (self._lists[number].items or self._lists[number].is_at_end)
        ]
