"""Pacing: one queue at this instance for the calls of each of the cloud's APIs, and one task that serves it.

The task asks for permits, which all instances share (``store.quota``), in small batches, and only for callers that
are connected and use them at once: an instance that is paused with permits must not add them to later calls.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Final, Self

import structlog

from app.cloud.errors import CloudError
from app.cloud.quota import CallPermit, CloudClosed, QuotaExhausted, QuotaUnreachable
from app.errors import Unavailable
from app.model.calls import ATTEMPT_TIMEOUT_S, CallRank
from app.service.permit_queue import HEARTBEAT_S, PermitQueue
from app.service.permit_waiters import Waiter, WaiterState
from app.store.quota import PermitGrant, SharedQuota
from app.store.retry import retry_until
from app.tasks import end

log = structlog.get_logger(__name__)

ASK_EVERY_S: Final = 0.005
"""All instances together ask so often at most: the more queues, the less often each asks."""

RETRY_WITHIN_S: Final = 0.5
"""A Redis that only restarts is waited for; then all waiters are refused."""

STOPPING: Final = "this instance is stopping"


class Pacing:
    """The queues of one instance."""

    def __init__(
        self,
        quota: SharedQuota,
        *,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        closed_for_s: Callable[[], float] = lambda: 0.0,
        reported_at: Callable[[], float] = lambda: math.inf,
        on_probe_unsent: Callable[[], None] = lambda: None,
    ) -> None:
        """Take permits from ``quota``; nothing is asked before a caller waits.

        ``attempt_timeout_s`` is how long a call may take that was sent. ``closed_for_s`` returns for how long the cloud
        is left alone as it does not answer, where no queue has asked, and ``reported_at`` since when this is known, in
        loop time. ``on_probe_unsent`` is called when permits to probe whether it answers were not used.
        """
        self._quota = quota
        self._attempt_timeout_s = attempt_timeout_s
        self._closed_for_s = closed_for_s
        self._reported_at = reported_at
        self._on_probe_unsent = on_probe_unsent
        self._pacers: dict[str, _Pacer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def place(
        self, action: str, count: int = 1, *, rank: CallRank, deadline: float
    ) -> AbstractAsyncContextManager[_Place]:
        """Wait for the place for ``count`` calls of ``action``, and keep it until they are over.

        ``deadline`` is loop time in seconds. Raises ``QuotaExhausted`` and ``CloudClosed``, at once where the turn
        would come too late, and ``QuotaUnreachable``. A caller that is cancelled has taken nothing, and those behind
        it move up.
        """
        if self._closed:
            raise QuotaUnreachable(STOPPING)
        return _Place(self._pacer(action), count, rank, deadline)

    def refusal(
        self, action: str, count: int = 1, *, rank: CallRank = CallRank.FIRST, deadline: float
    ) -> QuotaExhausted | CloudClosed | None:
        """Return what ``place`` would raise at once, as far as is known without asking Redis."""
        return None if self._closed else self._pacer(action).refusal(count, rank, deadline)

    async def close(self) -> None:
        """End every queue; all that still wait are refused."""
        self._closed = True
        await end(self._tasks)

    def _note_report(self, queue: PermitQueue) -> float:
        """Let a queue know what the reports of this instance show. Return the time."""
        now = asyncio.get_running_loop().time()
        queue.note_report(self._closed_for_s(), reported_at=self._reported_at(), now=now)
        return now

    def _pacer(self, action: str) -> _Pacer:
        pacer = self._pacers.get(action)
        if pacer is None:
            queue = PermitQueue(
                action, attempt_timeout_s=self._attempt_timeout_s, on_probe_unsent=self._on_probe_unsent
            )
            pacer = self._pacers[action] = _Pacer(self._quota, action, queue, self._note_report)
            self._tasks.add(asyncio.create_task(pacer.serve_forever(), name=f"pace {action}"))
        return pacer


class _Place(AbstractAsyncContextManager["_Place"]):
    """A caller's place in a queue, then among the calls under way."""

    def __init__(self, pacer: _Pacer, count: int, rank: CallRank, deadline: float) -> None:
        self._pacer = pacer
        self._queue = pacer.queue
        self._count = count
        self._rank = rank
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._waiter: Waiter
        self._change: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Wait for the place."""
        self._waiter = self._pacer.join(self._count, self._rank, self._deadline, on_changed=self._on_changed)
        try:
            while not self._queue.has_place(self._waiter):
                self._pacer.serve()
                await self._changed()
        except BaseException:
            self._queue.leave(self._waiter, self._loop.time())
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free the place."""
        is_connecting = self._waiter.state is WaiterState.PREPARING
        could_connect = not (is_connecting and isinstance(exc_value, CloudError))
        self._queue.leave(self._waiter, self._loop.time(), could_connect=could_connect)

    async def permit(self) -> CallPermit:
        """Wait, connected, for the permits of all calls at once; a permit that was not used is given back."""
        self._queue.connected(self._waiter, self._loop.time())
        while (permit := self._queue.take(self._waiter, self._loop.time())) is None:
            self._pacer.serve_ready()
            await self._changed()
        return permit

    def give_back(self) -> None:
        """Give permits back that were taken and not used."""
        self._queue.give_back(self._waiter, self._loop.time())

    def disconnected(self) -> None:
        """Let ``permit``, where it is waited for, return a void one at once."""
        self._queue.disconnected(self._waiter, self._loop.time())

    async def _changed(self) -> None:
        """Wait until the queue has decided something for this caller. Raises a refusal when its time is over."""
        self._change = self._loop.create_future()
        try:
            async with asyncio.timeout_at(self._waiter.until):
                await self._change
        except TimeoutError:
            if self._waiter.is_unserved:
                raise self._queue.late_refusal(self._loop.time()) from None

    def _on_changed(self) -> None:
        if self._change and not self._change.done():
            self._change.set_result(None)


class _Pacer:
    """Drives the queue for one API: asks the shared quota while a caller waits."""

    def __init__(
        self, quota: SharedQuota, action: str, queue: PermitQueue, note_report: Callable[[PermitQueue], float]
    ) -> None:
        """``note_report`` lets the queue know what is reported elsewhere, and returns the time."""
        self.queue = queue
        self._quota = quota
        self._action = action
        self._note_report = note_report
        self._woken = asyncio.Event()
        self._is_serving = False

    def join(self, count: int, rank: CallRank, deadline: float, on_changed: Callable[[], None]) -> Waiter:
        """Add a caller to the queue. Raises as ``PermitQueue.join``."""
        now = self._note_report(self.queue)
        return self.queue.join(count, rank=rank, deadline=deadline, now=now, on_changed=on_changed)

    def refusal(self, count: int, rank: CallRank, deadline: float) -> QuotaExhausted | CloudClosed | None:
        """Return what ``join`` would raise."""
        now = self._note_report(self.queue)
        return self.queue.refusal(count, rank=rank, deadline=deadline, now=now)

    def serve(self) -> None:
        """See that the queue is served, and reported to other instances: a caller waits."""
        if not self._is_serving:
            self._woken.set()

    def serve_ready(self) -> None:
        """See that permits are asked for: a caller would use them at once."""
        self._woken.set()

    async def serve_forever(self) -> None:
        """Serve the queue whenever a caller waits, until cancelled."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                self._is_serving = True
                try:
                    await self._serve()
                except Unavailable as error:
                    self.queue.refuse_all(error.cause)
                except Exception:
                    log.exception("pacer_broken", action=self._action)
                    self.queue.refuse_all("a fault of this server")
                self.queue.forget_others()
                self._is_serving = False
        finally:
            self.queue.refuse_all(STOPPING)

    async def _serve(self) -> None:
        while self.queue.waiting:
            if not self.queue.has_ready:
                await self._woken_within(HEARTBEAT_S)
            grant = await retry_until(self._ask, within_s=RETRY_WITHIN_S)
            if self.queue.waiting and grant.again_in_s:
                # A permit that is left over, as the first caller needs two, is void soon: the other one is due first.
                is_short = self.queue.has_left_over(asyncio.get_running_loop().time())
                await asyncio.sleep(grant.again_in_s if is_short else _pause_s(grant))

    async def _woken_within(self, seconds: float) -> None:
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _ask(self) -> PermitGrant:
        loop = asyncio.get_running_loop()
        grant = await self._quota.take_permits(self._action, self.queue.question(loop.time()))
        self.queue.answered(grant, loop.time())
        return grant


def _pause_s(grant: PermitGrant) -> float:
    """Return how many seconds to leave the shared quota alone."""
    # By chance among several: else the instance nearest to Redis would be first at every permit.
    others = len(grant.queues)
    spread = random.uniform(0, 2 * others * ASK_EVERY_S)  # noqa: S311 (no secret, only spread)
    return min(HEARTBEAT_S, max(grant.again_in_s, ASK_EVERY_S) + spread)
