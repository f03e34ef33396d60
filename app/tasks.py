"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def end(tasks: Iterable[asyncio.Task[Any]], *, again_after_s: float = 0.1) -> None:
    """Cancel ``tasks`` and wait until they are over; what they end with has been logged by themselves.

    A cancellation can be lost: ``asyncio.wait_for`` of Python 3.11, which the Redis client uses, swallows one that
    comes in the same turn as its result (cpython#86296). So it is repeated; ``again_after_s`` leaves a task time to
    clean up.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=again_after_s)
        for task in done:
            if not task.cancelled():
                task.exception()
