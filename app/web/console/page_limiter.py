"""How many pages an instance makes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from aiohttp import web

from app.model.operators import Operator

PAGES_AT_ONCE: Final = 6
PAGES_OF_ONE_AT_ONCE: Final = 2


class PageLimiter:
    """How many pages an instance makes at a time, in all and for one operator; the next ones wait.

    A search may look at a million tokens, and devices share the instance with it: an operator who holds down the reload
    key, or means harm, takes no more of it than this.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(PAGES_AT_ONCE)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def limit(self, operator: Operator) -> AsyncIterator[None]:
        """Wait until an operator may have another page made, and hold its place during the block."""
        own = self._own.setdefault(operator.name, asyncio.Semaphore(PAGES_OF_ONE_AT_ONCE))
        async with own, self._all:
            yield


PAGE_LIMITER: Final = web.AppKey("page_limiter", PageLimiter)
