"""How many pages, lists and exports an instance makes at once, in all and for one caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from aiohttp import web

from app.errors import Unavailable
from app.model.text import Text, _

ANSWER_WITHIN_S: Final = 8.0
"""A page waits no longer for anything; a load balancer gives up soon after."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many at once, in all and of one caller, and so many that wait for their place."""

    in_all: int
    of_one: int
    waiting: int
    waiting_of_one: int


PAGES: Final = Limit(in_all=6, of_one=2, waiting=64, waiting_of_one=32)
EXPORTS: Final = Limit(in_all=6, of_one=4, waiting=4, waiting_of_one=2)

RETRY_AFTER_S: Final = 10


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Places:
    """The places in all, or of one caller, and how many wait for one."""

    free: asyncio.Semaphore
    waiting: int = 0


class Place:
    """A place among those that are worked on."""

    def __init__(self, *taken_from: _Places) -> None:
        self._taken_from = list(taken_from)

    def leave(self) -> None:
        """Let the next one in; a second time does nothing."""
        while self._taken_from:
            self._taken_from.pop().free.release()


class CallerLimiter:
    """Gives places by a limit; the next callers wait, and where too many wait, one is refused.

    A search may look at a million tokens, and devices share the instance with it: an operator who holds down the reload
    key, or means harm, takes no more of it than this, and leaves the others their places.
    """

    def __init__(self, limit: Limit, busy: Text) -> None:
        """Refuse with ``busy`` where too many wait."""
        self._limit = limit
        self.busy = busy
        self._all = _Places(asyncio.Semaphore(limit.in_all))
        # As long as a caller has a place, or waits for one.
        self._own: WeakValueDictionary[str, _Places] = WeakValueDictionary()

    async def take_place(self, caller: str) -> Place:
        """Wait for a place, and take it. Raises ``Unavailable`` where too many wait."""
        limit = self._limit
        own = self._own.setdefault(caller, _Places(asyncio.Semaphore(limit.of_one)))
        if own.waiting >= limit.waiting_of_one or self._all.waiting >= limit.waiting:
            raise self.refusal()
        own.waiting, self._all.waiting = own.waiting + 1, self._all.waiting + 1
        try:
            await own.free.acquire()
            try:
                await self._all.free.acquire()
            except BaseException:
                own.free.release()
                raise
        finally:
            own.waiting, self._all.waiting = own.waiting - 1, self._all.waiting - 1
        return Place(own, self._all)

    def refusal(self) -> Unavailable:
        """Return the refusal of a caller who gets no place."""
        return Unavailable(self.busy, cause=f"{self._all.waiting} wait", retry_after_s=RETRY_AFTER_S)

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold a place during the block. Raises as ``take_place``."""
        place = await self.take_place(caller)
        try:
            yield
        finally:
            place.leave()


@dataclass(frozen=True)
class CallerLimits:
    """The limiters of an instance."""

    pages: CallerLimiter = field(
        default_factory=lambda: CallerLimiter(
            PAGES, _("too many of your pages and lists are being made at the moment: wait for them, then try again")
        )
    )
    exports: CallerLimiter = field(
        default_factory=lambda: CallerLimiter(
            EXPORTS, _("too many exports are being made at the moment: try again when one of them has ended")
        )
    )


CALLER_LIMITS: Final = web.AppKey("caller_limits", CallerLimits)


@asynccontextmanager
async def limited_page(request: web.Request, caller: str) -> AsyncIterator[None]:
    """Make few pages or lists at once, and none for longer than 8 s. Raises ``Unavailable``."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S), request.app[CALLER_LIMITS].pages.place(caller):
            yield
    except TimeoutError:
        raise Unavailable(_("this took longer than %(seconds)s s: try again", seconds=f"{ANSWER_WITHIN_S:g}")) from None
