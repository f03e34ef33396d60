"""Count calls by when they arrived, and decide whether a limit of calls a second admits one more.

Calls arrive on many connections and their verification waits for the database, so they may be counted in another order
than they arrived in. Each is compared with those that arrived up to 10 s earlier or later.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

_KEPT_S: Final = 10.0
"""For how long a time of arrival is kept at least."""


class QuotaWindow(Enum):
    """Which calls a limit counts together."""

    SLIDING = "sliding"
    """Those within any period of one second."""
    WHOLE = "whole"
    """Those within the same second of the clock."""


class Arrival(NamedTuple):
    """When the bytes of a call arrived."""

    at_s: float
    """Monotonic time, the latest possible one."""
    within_s: float = 0.0
    """How much earlier they may have arrived; 0 for a time that the kernel noted."""

    @property
    def earliest_s(self) -> float:
        """The earliest possible time."""
        return self.at_s - self.within_s


@dataclass(slots=True)
class CallMeter:
    """The calls that one limit applies to."""

    peak: int = 0
    """The highest count within one second, including refused calls."""
    refused: int = 0
    """Calls refused by the limit; for an address, including those while it was blocked."""
    _arrived_s: list[float] = field(default_factory=list)
    _admitted_s: list[float] = field(default_factory=list)
    """A refused call does not count towards the limit: otherwise a caller above the limit would never be admitted."""

    def note_arrival(self, arrival: Arrival, window: QuotaWindow) -> None:
        """Count a call towards the peak, whether it will be refused or not."""
        _add_time(self._arrived_s, arrival.earliest_s)
        self.peak = max(self.peak, _highest_count(self._arrived_s, arrival.at_s, window))

    def admit(self, arrival: Arrival, limit: int, window: QuotaWindow) -> bool:
        """Count a call towards ``limit`` and return ``True``, or return ``False`` if that would exceed it.

        Where times are uncertain, the latest one of this call is compared with the earliest ones of others: a call is
        refused only if the limit is certainly exceeded, and so never because of a pause of this process.
        """
        has_room = _has_room(self._admitted_s, arrival.at_s, limit, window)
        if has_room:
            _add_time(self._admitted_s, arrival.earliest_s)
        return has_room

    def withdraw(self, arrival: Arrival) -> None:
        """Do not count an admitted call towards the limit any more."""
        index = bisect_left(self._admitted_s, arrival.earliest_s)
        if self._admitted_s[index : index + 1] == [arrival.earliest_s]:
            del self._admitted_s[index]

    def forget_admitted(self) -> None:
        """Count the next calls as if none had been admitted before."""
        self._admitted_s.clear()


def _add_time(times_s: list[float], at_s: float) -> None:
    insort(times_s, at_s)
    if times_s[-1] - times_s[0] > 2 * _KEPT_S:  # seldom, because it moves the whole list
        del times_s[: bisect_left(times_s, times_s[-1] - _KEPT_S)]


def _highest_count(times_s: list[float], at_s: float, window: QuotaWindow) -> int:
    """Return the highest count within one second that a call at ``at_s`` can be part of."""
    if window is QuotaWindow.WHOLE:
        return _count_in_second(times_s, math.floor(at_s))
    counted = bisect_right(times_s, at_s)
    highest = counted - bisect_right(times_s, at_s - 1)
    for end_s in times_s[counted : bisect_left(times_s, at_s + 1)]:  # calls that were counted before and arrived later
        highest = max(highest, bisect_right(times_s, end_s) - bisect_right(times_s, end_s - 1))
    return highest


def _has_room(times_s: list[float], at_s: float, limit: int, window: QuotaWindow) -> bool:
    """Return whether no second would have more than ``limit`` calls with one more at ``at_s``."""
    if window is QuotaWindow.WHOLE:
        return _count_in_second(times_s, math.floor(at_s)) < limit
    index = bisect_right(times_s, at_s)
    for after in range(min(limit, len(times_s) - index) + 1):  # that many of the ``limit`` other calls arrived later
        before = limit - after
        if before <= index:
            first_s = times_s[index - before] if before else at_s
            last_s = times_s[index + after - 1] if after else at_s
            if last_s - first_s < 1:
                return False
    return True


def _count_in_second(times_s: list[float], second: int) -> int:
    return bisect_left(times_s, second + 1) - bisect_left(times_s, second)
