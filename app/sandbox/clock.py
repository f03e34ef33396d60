"""The sandbox's clock, which tests and rehearsals may move: gateway and broker read this one and no other."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Wall time plus an offset."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._on_move: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        """Return the sandbox's time in milliseconds since the epoch."""
        return round((time.time() + self.offset_s) * 1000)

    def on_move(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever the clock is moved, so that what is due is looked at again at once."""
        self._on_move.append(call)

    def move(self, offset_s: float) -> None:
        """Run ``offset_s`` seconds ahead of wall time from now on (behind it if negative)."""
        self.offset_s = offset_s
        for call in self._on_move:
            call()
