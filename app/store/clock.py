"""Redis's time, learned as an offset to this process's own monotonic clock.

Instances whose machines disagree about the time must still agree about expiry, so they all use Redis's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any


class RedisClock:
    """The time that all instances share. ``shift_ms`` moves it in tests and is 0 elsewhere."""

    def __init__(self) -> None:
        """Begin with the machine's own clock; ``learn`` corrects it."""
        self._offset_ms = time.time() * 1000 - _monotonic_ms()
        self.shift_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return int(_monotonic_ms() + self._offset_ms) + self.shift_ms

    def now_s(self) -> int:
        """Return whole seconds since the epoch."""
        return self.now_ms() // 1000

    async def learn(self, command: Callable[[str], Awaitable[Any]]) -> None:
        """Ask Redis for its time, read in the middle of the round trip: the way there takes as long as the way back."""
        asked_ms = _monotonic_ms()
        seconds, microseconds = map(int, await command("TIME"))
        middle_ms = (asked_ms + _monotonic_ms()) / 2
        self._offset_ms = seconds * 1000 + microseconds / 1000 - middle_ms


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
