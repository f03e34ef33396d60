"""How many token requests an instance works on at a time. There is no I/O here.

One processor serves them in turn, so more of them at a time would not be served sooner. But every step of each would
come later, and a permit to call the cloud is void after 20 ms.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from app.errors import InvalidRequest

MAX_CONCURRENT: Final = 16
"""How many requests an instance works on at a time. Those that wait for the cloud or for their body are not counted.

Measured with 200 and 600 clients at once: the answer to a question for permits then comes within 8 to 16 ms of
processor time in 99 of 100 cases, with 32 requests at a time within 12 to 48 ms, without a bound within 58 to 130 ms.
Requests for live tokens take as long either way. Fewer would need a faster Redis: each is counted while Redis answers.
"""

LOOK_EVERY_S: Final = 0.02
"""How often is looked, while requests wait, whether any that is counted proceeded. If Redis is slow or away none does;
then as many more are let in each time, so that each is answered in time, by Redis or by a refusal. On a machine that is
slow some do: more at a time would make it slower."""

MIN_PURGE: Final = 64
"""With so many waiting requests, and then twice as many as were left, those whose client has gone away are dropped."""


@dataclass(slots=True, eq=False)
class _UnreadRequest:
    """A request that waits to be read; ``turn`` is done when it may be, or when its client has gone away."""

    turn: asyncio.Future[None]
    is_gone: Callable[[], bool]

    def still_waits(self) -> bool:
        """Return whether to keep it; one whose client has gone away ends."""
        if not self.turn.done() and self.is_gone():
            self.turn.set_exception(
                InvalidRequest("the client closed the connection before its request was read: send it again")
            )
        return not self.turn.done()


class RequestLimiter:
    """Lets a bounded number of requests in at a time; the others wait, first come, first served.

    How many wait is bounded by the number of connections: each has one request at a time.
    """

    def __init__(self, most: int) -> None:
        """Let ``most`` in at a time."""
        self._most = most
        self._active = 0
        self._progressed = False
        """Whether any ended, or began to wait for the cloud, since the last look."""
        self._unread: deque[_UnreadRequest] = deque()
        self._purge_at = MIN_PURGE
        self._next_look: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait to be read."""
        return len(self._unread)

    @asynccontextmanager
    async def turn(self, is_gone: Callable[[], bool]) -> AsyncIterator[None]:
        """Wait until another request may be worked on, and count it during the block.

        ``is_gone`` returns whether the client has gone away. Raises ``InvalidRequest`` if it has.
        """
        if self._unread or self._active >= self._most:
            await self._wait(is_gone)
        else:
            self._active += 1
        try:
            yield
        finally:
            self._progressed = True
            self._leave()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Do not count the caller's request during the block, in which it only waits.

        Then it goes on at once, also beyond the bound: its time is running, unlike that of the requests not read yet.
        """
        self._progressed = True
        self._leave()
        try:
            yield
        finally:
            self._active += 1

    async def _wait(self, is_gone: Callable[[], bool]) -> None:
        request = _UnreadRequest(asyncio.get_running_loop().create_future(), is_gone)
        self._unread.append(request)
        if len(self._unread) >= self._purge_at:
            self._purge()
        self._look_later()
        try:
            await request.turn
        except asyncio.CancelledError:
            if not request.turn.cancelled() and request.turn.exception() is None:
                self._leave()
            raise

    def _leave(self) -> None:
        self._active -= 1
        self._let_in(self._most)

    def _let_in(self, most: int) -> None:
        while self._unread and self._active < most:
            request = self._unread.popleft()
            if request.still_waits():
                self._active += 1
                request.turn.set_result(None)

    def _look_later(self) -> None:
        if self._unread and self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._next_look = None
        if not self._progressed:
            self._let_in(self._active + self._most)
        self._progressed = False
        self._look_later()

    def _purge(self) -> None:
        self._unread = deque(request for request in self._unread if request.still_waits())
        self._purge_at = max(MIN_PURGE, 2 * len(self._unread))
