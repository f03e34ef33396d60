"""Pacing: one queue at this instance for the permits of each of the cloud's APIs, and one task that serves it.

The task asks the buckets that all instances share (``store.quota``) for small batches, and only while a caller waits.
What is taken is used at once: an instance that is paused with permits must not add them to later calls.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from app.cloud.quota import CallPermit, QuotaExhausted, QuotaUnreachable
from app.errors import Unavailable
from app.model.calls import CallRank
from app.service.permit_queue import HEARTBEAT_S, PermitQueue
from app.store.quota import PermitGrant, SharedQuota
from app.store.retry import retry_until
from app.tasks import end

log = structlog.get_logger(__name__)

ASK_EVERY_S: Final = 0.005
"""All instances together ask the buckets so often at most: the more queues, the less often each asks."""

RETRY_WITHIN_S: Final = 0.5
"""A Redis that only restarts is waited for; then all waiters are refused."""

STOPPING: Final = "this instance is stopping"


class Pacing:
    """The queues of one instance."""

    def __init__(self, quota: SharedQuota) -> None:
        """Take permits from ``quota``; nothing is asked before a caller waits."""
        self._quota = quota
        self._pacers: dict[str, _Pacer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def place(
        self,
        action: str,
        count: int = 1,
        *,
        rank: CallRank,  # noqa: ARG002 - one queue has one order
        deadline: float,
    ) -> AsyncIterator[_Place]:
        """Wait for the place for ``count`` calls of ``action``, and keep it until they are over.

        Raises ``QuotaExhausted``, at once where the queue is too long already, and ``QuotaUnreachable``.
        """
        if self._closed:
            raise QuotaUnreachable(STOPPING)
        pacer = self._pacers.get(action)
        if pacer is None:
            pacer = self._pacers[action] = _Pacer(self._quota, action)
            self._tasks.add(asyncio.create_task(pacer.serve_forever(), name=f"pace {action}"))
        yield _Place(pacer, count, deadline)

    def refusal(self, action: str, count: int = 1, *, deadline: float) -> QuotaExhausted | None:
        """Return what ``place`` would raise at once, as far as is known without asking Redis."""
        pacer = self._pacers.get(action)
        now = asyncio.get_running_loop().time()
        return pacer.queue.refusal(count, deadline=deadline, now=now) if pacer else None

    async def close(self) -> None:
        """End every queue; all that still wait are refused."""
        self._closed = True
        await end(self._tasks)


class _Place:
    """A place in the queue for one API."""

    def __init__(self, pacer: _Pacer, count: int, deadline: float) -> None:
        self._pacer = pacer
        self._count = count
        self._deadline = deadline

    async def permit(self) -> CallPermit:
        """Wait for the permits of all calls at once."""
        return await self._pacer.permit(self._count, self._deadline)

    def disconnected(self) -> None:
        """Do nothing: connections are looked at before anything is sent."""


class _Pacer:
    """Drives the queue for one API: asks the shared quota, wakes the waiters."""

    def __init__(self, quota: SharedQuota, action: str) -> None:
        self.queue = PermitQueue(action)
        self._quota = quota
        self._action = action
        self._woken = asyncio.Event()

    async def permit(self, count: int, deadline: float) -> CallPermit:
        loop = asyncio.get_running_loop()
        decided = asyncio.Event()
        waiter = self.queue.join(count, deadline=deadline, now=loop.time(), on_decided=decided.set)
        try:
            async with asyncio.timeout_at(waiter.until):
                while not self.queue.is_served(waiter, loop.time()):
                    self._woken.set()
                    await decided.wait()
                    decided.clear()
                return CallPermit(waiter.void_at, 0, is_probe=False)
        except TimeoutError:
            self.queue.leave(waiter, loop.time())
            raise self.queue.exhausted() from None
        finally:
            self.queue.leave(waiter, loop.time())

    async def serve_forever(self) -> None:
        """Serve the queue whenever a caller waits, until cancelled."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                try:
                    await self._serve()
                except Unavailable as error:
                    self.queue.refuse_all(error.cause)
                except Exception:
                    log.exception("pacer_broken", action=self._action)
                    self.queue.refuse_all("a fault of this server")
                self.queue.forget_others()
        finally:
            self.queue.refuse_all(STOPPING)

    async def _serve(self) -> None:
        while self.queue.waiting:
            grant = await retry_until(self._ask, within_s=RETRY_WITHIN_S)
            if self.queue.waiting and grant.again_in_s:
                await asyncio.sleep(_pause_s(grant))

    async def _ask(self) -> PermitGrant:
        loop = asyncio.get_running_loop()
        grant = await self._quota.take_permits(self._action, self.queue.question(loop.time()))
        self.queue.answered(grant, loop.time())
        return grant


def _pause_s(grant: PermitGrant) -> float:
    """Return how many seconds to leave the buckets alone."""
    # By chance among several: else the instance nearest to Redis would be first at every permit.
    others = len(grant.queues)
    spread = random.uniform(0, 2 * others * ASK_EVERY_S)  # noqa: S311 (no secret, only spread)
    return min(HEARTBEAT_S, max(grant.again_in_s, ASK_EVERY_S) + spread)
