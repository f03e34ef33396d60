"""Trying again while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from app.errors import Unavailable

FIRST_DELAY_S: Final = 0.02
LAST_DELAY_S: Final = 0.2

T = TypeVar("T")


async def retry_until(step: Callable[[], Awaitable[T]], *, within_s: float) -> T:
    """Repeat a step that may be sent again until it succeeds. Raises ``Unavailable`` after ``within_s`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    delays_s: Iterator[float] | None = None
    while True:
        try:
            return await step()
        except Unavailable:
            delays_s = delays_s or backoff()
            delay_s = next(delays_s)
            if loop.time() + delay_s > deadline:
                raise
            await asyncio.sleep(delay_s)


def backoff() -> Iterator[float]:
    """Yield the seconds to wait before each next try: short at first, longer later, without end."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s
        delay_s = min(LAST_DELAY_S, delay_s * 1.5)
