"""Pacing: the lines for the cloud's permits at this instance, one for each API, served first come, first served.

A line asks the buckets that all instances share (``store.quota``) for small batches, and only while somebody stands in
it. What is taken is used at once: whoever is paused with a permit in hand must not add it to the calls of later.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog

from app.cloud.quota import QuotaExhausted, QuotaUnreachable
from app.errors import Unavailable
from app.store.quota import PermitGrant, SharedQuota
from app.store.retry import retry_until
from app.tasks import end

log = structlog.get_logger(__name__)

VALID_S: Final = 0.1
"""A permit that was not used so long after it was asked for is void."""

MIN_BATCH_S: Final = 0.01
MAX_BATCH_S: Final = 0.05
"""A batch is what the pace brings from one question to the next, within these bounds in seconds: small, so that an
instance that is held up holds little up with it, but enough where Redis takes long to answer."""

ASK_EVERY_S: Final = 0.005
"""All lines together ask the buckets so often at most; each so much the less, the more there are."""

SPEAK_EVERY_S: Final = 0.25
"""A line says so often at least that it is there."""

INSIST_S: Final = 0.5
"""A Redis that only restarts is waited for; then all in line are refused."""

STOPPING: Final = "this instance is stopping"

CALL_SHARE: Final = 1 / 8
"""The share of the caller's time that is kept for the call itself."""


class Pacing:
    """The lines of one instance."""

    def __init__(self, buckets: SharedQuota) -> None:
        """Take permits from ``buckets``; nothing is asked before somebody waits."""
        self._buckets = buckets
        self._lines: dict[str, _PermitQueue] = {}
        self._pacers: set[asyncio.Task[None]] = set()
        self._closed = False

    async def permit(self, action: str, count: int = 1, *, deadline: float) -> None:
        """Wait for ``count`` permits, all at once, to call ``action`` now; ``deadline`` is loop time in seconds.

        Raises ``QuotaExhausted``, at once where the line is too long already, and ``QuotaUnreachable``. A waiter that
        is cancelled has taken nothing, and those behind it move up.
        """
        if self._closed:
            raise QuotaUnreachable(STOPPING)
        line = self._lines.get(action)
        if line is None:
            line = self._lines[action] = _PermitQueue(self._buckets, action)
            self._pacers.add(asyncio.create_task(line.serve(), name=f"pace {action}"))
        await line.wait(count, deadline)

    def refusal(self, action: str, *, deadline: float) -> QuotaExhausted | None:
        """Return what ``permit`` would raise at once, as far as is known without asking Redis."""
        line = self._lines.get(action)
        return line.refusal(1, deadline) if line else None

    async def close(self) -> None:
        """End every line; whoever still stands in one is refused."""
        self._closed = True
        await end(self._pacers)


@dataclass(slots=True, eq=False)
class _Waiter:
    count: int
    deadline: float
    turn: asyncio.Future[float]
    """Holds the instant at which the permits are void."""


class _PermitQueue:
    """Those who wait for permits of one API."""

    def __init__(self, buckets: SharedQuota, action: str) -> None:
        self._buckets = buckets
        self._action = action
        self._waiters: deque[_Waiter] = deque()  # who left is dropped when he comes to the head
        self._wanted = 0
        self._held = 0
        self._void_at = 0.0
        self._asked_at = 0.0
        self._in_time = True
        self._last: PermitGrant | None = None
        self._joined = asyncio.Event()

    def refusal(self, count: int, deadline: float) -> QuotaExhausted | None:
        now = asyncio.get_running_loop().time()
        late = self._last and now + self._last.wait_s(self._wanted + count) > _latest(now, deadline)
        return self._exhausted() if late else None

    async def wait(self, count: int, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._wanted and self._held >= count and now < self._void_at:
            self._held -= count
            return
        if refusal := self.refusal(count, deadline):
            raise refusal
        latest = _latest(now, deadline)
        waiter = _Waiter(count, latest, loop.create_future())
        self._waiters.append(waiter)
        self._wanted += count
        self._joined.set()
        try:
            async with asyncio.timeout_at(latest):
                while loop.time() >= await waiter.turn:
                    # This process was held up between the answer and here: back to the head of the line.
                    self._in_time = False
                    waiter.turn = loop.create_future()
                    self._waiters.appendleft(waiter)
                    self._wanted += count
                    self._joined.set()
        except TimeoutError:
            self._leave(waiter)
            raise self._exhausted() from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    async def serve(self) -> None:
        """Be the pacer of this line, until cancelled."""
        try:
            while True:
                await self._joined.wait()
                self._joined.clear()
                try:
                    await self._serve_all()
                except Unavailable as error:
                    self._refuse_all(error.cause)
                except Exception:
                    log.exception("pacer_broken", action=self._action)
                    self._refuse_all("a fault of this server's own")
                self._last = None
        finally:
            self._refuse_all(STOPPING)

    async def _serve_all(self) -> None:
        while self._wanted:
            taken = await retry_until(self._take, within_s=INSIST_S)
            self._hand_out()
            if self._last is None:
                self._refuse_the_late(taken)
            self._last = taken
            if self._wanted and taken.again_in_s:
                await asyncio.sleep(_pause_s(taken))

    async def _take(self) -> PermitGrant:
        asked_at = asyncio.get_running_loop().time()
        held = self._held if asked_at < self._void_at else 0
        first = next((each.count for each in self._waiters if not each.turn.done()), 1)
        least = max(1, first - held)
        every_s = asked_at - self._asked_at if self._last else 0
        # Who was too late to use what he took last time takes little: the others lose it.
        batch_s = min(MAX_BATCH_S, max(MIN_BATCH_S, every_s)) if self._in_time else 0
        self._asked_at = asked_at
        line = max(least, self._wanted - held)
        taken = await self._buckets.take(self._action, line=line, least=least, batch_s=batch_s)
        self._in_time = asyncio.get_running_loop().time() < asked_at + VALID_S
        self._hold(taken.permits, asked_at + VALID_S)
        return taken

    def _hold(self, permits: int, void_at: float) -> None:
        if asyncio.get_running_loop().time() >= self._void_at:
            self._held = 0
        self._void_at = min(self._void_at, void_at) if self._held else void_at
        self._held += permits

    def _hand_out(self) -> None:
        if asyncio.get_running_loop().time() >= self._void_at:
            self._held = 0
        while self._waiters:
            head = self._waiters[0]
            if not head.turn.done():
                if head.count > self._held:
                    return
                self._held -= head.count
                self._wanted -= head.count
                head.turn.set_result(self._void_at)
            self._waiters.popleft()

    def _leave(self, waiter: _Waiter) -> None:
        """Take out one who stopped waiting; what he was handed in that very moment goes to the next."""
        if waiter.turn.cancelled() or not waiter.turn.done():
            waiter.turn.cancel()
            self._wanted -= waiter.count
        elif waiter.turn.exception() is None:
            self._hold(waiter.count, waiter.turn.result())
            self._hand_out()

    def _refuse_all(self, cause: str) -> None:
        for each in self._waiters:
            if not each.turn.done():  # whoever was cancelled in this very moment takes himself out
                each.turn.set_exception(QuotaUnreachable(cause))
                self._wanted -= each.count
        self._waiters.clear()

    def _refuse_the_late(self, taken: PermitGrant) -> None:
        """Refuse those who joined before anything was known of the others' lines, and would wait too long."""
        now, place = asyncio.get_running_loop().time(), 0
        for each in self._waiters:
            if each.turn.done():
                continue
            place += each.count
            if now + taken.wait_s(place) > each.deadline:
                each.turn.set_exception(QuotaExhausted(self._action, taken.backlog_s(self._wanted)))
                self._wanted -= each.count
                place -= each.count

    def _exhausted(self) -> QuotaExhausted:
        return QuotaExhausted(self._action, self._last.backlog_s(self._wanted) if self._last else SPEAK_EVERY_S)


def _latest(now: float, deadline: float) -> float:
    """Return until when to wait: some of the time is for the call itself."""
    return now + (deadline - now) * (1 - CALL_SHARE)


def _pause_s(taken: PermitGrant) -> float:
    """Return how long to leave the buckets alone."""
    # By chance among several: else the instance nearest to Redis would be first at every permit.
    others = len(taken.lines)
    spread = random.uniform(0, 2 * others * ASK_EVERY_S)  # noqa: S311 (no secret, only spread)
    return min(SPEAK_EVERY_S, max(taken.again_in_s, ASK_EVERY_S) + spread)
