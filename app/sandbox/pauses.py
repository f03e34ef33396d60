"""How long this process paused: the time in which it read nothing, because it was busy, stopped or without a processor.

A pause does not change what is counted: the kernel notes when the bytes of a call arrive. Where it does not, a call may
have arrived earlier than it was read, by up to the longest recent pause (``Arrival.within_s``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import structlog

log = structlog.get_logger("sandbox.pauses")

MAX_PAUSE_S: Final = 0.03
"""The range of delays that callers allow for by default."""

_TICK_S: Final = 0.1 if sys.platform == "linux" else 0.01
"""How often to measure; a pause in which no call arrives is measured to within this time.

A tick costs a tenth of a call's processor time. Where the kernel notes arrivals, calls measure a pause exactly.
"""
_RECENT_S: Final = 1.0


class PauseMeter:
    """The longest pause of this process, and whether it was longer than callers allow for."""

    def __init__(self, max_s: float = MAX_PAUSE_S) -> None:
        self.max_s = max_s
        self.longest_s = 0.0
        self._logged_above_s = max_s
        self._recent_s = 0.0
        self._recent_until_s = 0.0

    @property
    def is_exceeded(self) -> bool:
        """Whether a pause was so long that what callers did cannot be judged."""
        return self.longest_s > self.max_s

    @property
    def recent_s(self) -> float:
        """The longest pause of the last second, or a longer one before it."""
        return self._recent_s

    def note_pause(self, pause_s: float, now_s: float) -> None:
        """Note how late something was done."""
        if pause_s >= self._recent_s or now_s >= self._recent_until_s:
            self._recent_s, self._recent_until_s = pause_s, now_s + _RECENT_S
        self.longest_s = max(self.longest_s, pause_s)
        if pause_s > self._logged_above_s:
            # Of a long pause each call that waited would be logged: log the first, and what is twice as long.
            self._logged_above_s = max(self.max_s, 2 * pause_s)
            log.warning("paused_too_long", pause_ms=_in_ms(pause_s), max_pause_ms=_in_ms(self.max_s))

    def reset(self) -> None:
        """Forget the longest pause."""
        self.longest_s = 0.0
        self._logged_above_s = self.max_s

    def describe(self) -> dict[str, float | bool]:
        """Return the fields that the control endpoints show."""
        return {
            "longest_pause_ms": _in_ms(self.longest_s),
            "max_pause_ms": _in_ms(self.max_s),
            "paused_too_long": self.is_exceeded,
        }

    async def measure(self) -> None:
        """Measure how late this loop runs. Runs until canceled."""
        while True:
            due_s = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            self.note_pause(max(0.0, now_s - due_s), now_s)


def _in_ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
