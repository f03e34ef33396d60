"""Waiting for a condition, never for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from app.store.retry import retry_until
from app.store.store import Store


async def until(
    condition: Callable[[], Awaitable[object]], what: str, *, within_s: float = 20, every_s: float = 0.005
) -> None:
    """Wait until ``condition``, asked ``every_s``, holds; fail saying ``what`` was waited for."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 (what is waited for is in another process)
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


async def connect_all(store: Store) -> None:
    """Open each connection of a store and learn the time.

    A store gives an attempt to connect up after half a second, and a busy machine may take that long.
    """
    for client in (store.requests, store.permits, store.background, store.searches, store.polling):
        await retry_until(partial(client.command, "PING"), within_s=20)
    await store.learn_time()
