"""Waiting for a condition, never for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[object]], what: str, *, within_s: float = 20) -> None:
    """Wait until ``condition`` holds; fail saying ``what`` was waited for."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 (what is waited for is in another process)
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
