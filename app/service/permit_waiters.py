"""The callers of one API at one instance, in the order in which they are served. There is no I/O here."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from app.cloud.quota import CallPermit, QuotaRefusal
from app.model.calls import CallRank
from app.service.permit_stock import NO_PERMIT


class WaiterState(IntEnum):
    """What a caller waits for, or is doing."""

    WAITING = 0
    """It has no place yet."""
    PREPARING = 1
    """It has a place, and connects."""
    READY = 2
    """It is connected, and wants its permits."""
    GRANTED = 3
    """Permits are set aside for it."""
    UNDER_WAY = 4
    """It has taken its permits, and calls."""
    REFUSED = 5
    GONE = 6


MAX_LEFT: Final = 64
"""A heap is made anew when it holds more than this, and than twice those that wait: while better callers wait all the
time the others never come first, where those that have left are dropped."""

_UNSERVED: Final = (WaiterState.WAITING, WaiterState.PREPARING, WaiterState.READY)
"""States in which a caller waits for permits, in the end."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A caller that wants permits for ``count`` calls at once by ``until``, and answers by ``deadline``.

    Both are loop time in seconds.
    ``on_changed`` is called when it has got its place, its permits or a refusal. ``number`` is its turn among those of
    its rank.
    """

    count: int
    rank: CallRank
    until: float
    deadline: float
    on_changed: Callable[[], None]
    number: int = 0
    state: WaiterState = WaiterState.GONE
    has_place: bool = False
    prepares_since: float = 0.0
    permit: CallPermit = NO_PERMIT
    refusal: QuotaRefusal | None = None

    @property
    def is_unserved(self) -> bool:
        """Whether it waits for permits."""
        return self.state in _UNSERVED


class Waiters:
    """The callers by what they wait for; the best rank goes first, then who came first."""

    def __init__(self) -> None:
        self._joined = 0
        self._unserved: dict[Waiter, None] = {}
        self._heaps: dict[WaiterState, list[tuple[CallRank, int, Waiter]]] = {
            WaiterState.WAITING: [],
            WaiterState.READY: [],
        }
        """What is in another state by now is dropped when it would be first."""
        self._calls = [[0] * len(CallRank) for _ in WaiterState]
        """How many calls there are in each state, by rank."""

    def add(self, waiter: Waiter) -> None:
        """Add a caller, which waits for its place."""
        self._joined += 1
        waiter.number = self._joined
        self._enter(waiter, WaiterState.WAITING)

    def move(self, waiter: Waiter, state: WaiterState) -> None:
        """Let a caller go over into another state. Its turn stays the same."""
        self._calls[waiter.state][waiter.rank] -= waiter.count
        self._enter(waiter, state)

    def first(self, state: WaiterState) -> Waiter | None:
        """Return who goes first of those that are waiting, or ready."""
        heap = self._heaps[state]
        while heap and heap[0][2].state is not state:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def unserved(self) -> list[Waiter]:
        """Return all that wait for permits, in order."""
        return sorted(self._unserved, key=lambda waiter: (waiter.rank, waiter.number))

    def calls(self, *states: WaiterState, rank: CallRank | None = None) -> int:
        """Count the calls in these states, or those of one rank."""
        if rank is not None:
            return sum(self._calls[state][rank] for state in states)
        return sum(sum(self._calls[state]) for state in states)

    def unserved_calls(self, *, up_to: CallRank = CallRank.RENEWAL) -> int:
        """Count the calls that wait for permits, of this rank and of better ones."""
        return self.calls_up_to(up_to, *_UNSERVED)

    def calls_up_to(self, rank: CallRank, *states: WaiterState) -> int:
        """Count the calls in these states, of this rank and of better ones."""
        return sum(sum(self._calls[state][: rank + 1]) for state in states)

    def _enter(self, waiter: Waiter, state: WaiterState) -> None:
        waiter.state = state
        self._calls[state][waiter.rank] += waiter.count
        if waiter.is_unserved:
            self._unserved[waiter] = None
        else:
            self._unserved.pop(waiter, None)
        if state in self._heaps:
            heap = self._heaps[state]
            heapq.heappush(heap, (waiter.rank, waiter.number, waiter))
            if len(heap) > 2 * self.calls(state) + MAX_LEFT:
                there = (each for each in self._unserved if each.state is state)
                heap[:] = [(each.rank, each.number, each) for each in there]
                heapq.heapify(heap)
