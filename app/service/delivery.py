"""Delivering revocations to the cloud (guide chapter 10.3), from a queue that survives every instance."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final, NoReturn

import structlog

from app.cloud.client import CloudClient
from app.cloud.errors import RETRIED, CloudError, ErrorKind
from app.cloud.quota import QuotaRefusal
from app.errors import Unavailable
from app.model.actors import SERVER
from app.model.calls import CallRank
from app.model.secrets import CloudToken
from app.service.audit import EventRecorder, outcome_unknown
from app.service.call_gate import CallGate
from app.store.audit import AuditStore, Event, EventKind, NewEntry
from app.store.constants import CLAIM_MS
from app.store.records import Priority
from app.store.redis_keys import Shard
from app.store.retry import retry_until
from app.store.revocations import Claim, Outcome, RevocationQueue
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens
from app.tasks import end

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often an idle instance looks whether another has queued something."""

FRESH_FOR_S: Final = 0.2
"""How long the order of the shards is used before it is read again: a revocation queued meanwhile may go first."""

SEND_WITHIN_S: Final = CLAIM_MS / 1000 * 0.6
"""Well below the claim's time, so that no other worker sends the same revocation meanwhile."""

RECORD_WITHIN_S: Final = 5.0

WAITING_S: Final = 0.02
"""How many seconds' worth of revocations wait for permits. The others stay queued: a more urgent one can go first."""

LATENCY_S: Final = 5.0
"""The pace is kept while the cloud answers within this time: that many deliveries go on at once."""

MIN_WORKERS: Final = 4
MAX_WORKERS: Final = 256

FIRST_BACKOFF_MS: Final = 1_000
LAST_BACKOFF_MS: Final = 30_000
MAX_ATTEMPTS: Final = 30

REFUSED_AGAIN_MS: Final = 500
"""When a revocation is due again for which the quota refused the call."""

MAYBE_UNKNOWN: Final = frozenset({ErrorKind.PARAMETER, ErrorKind.PERMANENT})
"""How the cloud may refuse a token that it does not know, or no longer knows."""


class Delivery:
    """Takes revocations of all instances from the queue and sends them to the cloud at the pace of its quota."""

    def __init__(
        self,
        queue: RevocationQueue,
        tokens: Tokens,
        cloud: CloudClient,
        *,
        audit: AuditStore,
        pace: float,
        close_connections: bool = False,
        confirmed: Callable[[], None] = lambda: None,
    ) -> None:
        """Claim from ``queue``, unseal with ``tokens``, and send through ``cloud``, which keeps to the quota.

        ``pace`` is how many calls a second the quota allows: enough workers are started for it. ``close_connections``:
        close the device's connection as well, because the broker checks a token only when it is used, and record that
        in ``audit``. ``confirmed`` is called for each confirmation.
        """
        self._recorder = EventRecorder(audit)
        self._close_connections = close_connections
        self._confirmed = confirmed
        self._queue = queue
        self._tokens = tokens
        self._cloud = cloud
        self._workers = min(MAX_WORKERS, max(MIN_WORKERS, math.ceil(pace * LATENCY_S)))
        self._waiting = asyncio.Semaphore(max(2, math.ceil(pace * WAITING_S)))
        self._gate = CallGate(cloud, "RevokeToken", within_s=SEND_WITHIN_S)
        self._reading = asyncio.Lock()
        self._turns: deque[Shard] = deque()
        self._fresh_until = 0.0
        self._wake_up = asyncio.Event()

    def wake(self) -> None:
        """Look at the queue now instead of within a second."""
        self._fresh_until = 0.0
        self._wake_up.set()

    async def deliver_revocations(self) -> None:
        """Deliver until cancelled. A claim that is given up by that falls to another worker when it lapses."""
        workers = [asyncio.create_task(self._work(), name=f"deliver {number}") for number in range(self._workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            await end(workers)

    async def _work(self) -> NoReturn:
        while True:
            try:
                await self._deliver_next()
            except Unavailable as error:
                log.warning("delivery_not_recorded", cause=error.cause)
                self._turns.clear()
            except Exception:
                log.exception("delivery_broken")
                await asyncio.sleep(LOOK_EVERY_S)

    async def _deliver_next(self) -> None:
        """Claim a revocation and deliver it. Raises ``Unavailable``."""
        async with self._one_of_few_waiting() as on_sent:
            claim = await self._claim_next()
            await self._deliver(claim, on_sent)

    @asynccontextmanager
    async def _one_of_few_waiting(self) -> AsyncIterator[Callable[[], None]]:
        """Wait until few claims wait for their first call to be sent. Yields what is called when it was."""
        await self._waiting.acquire()
        with ExitStack() as stack:
            stack.callback(self._waiting.release)
            yield stack.close

    async def _claim_next(self) -> Claim:
        """Claim the revocation that is first over all shards; wait until there is one, and calls are not stopped."""
        while True:
            async with self._reading:
                await self._gate.wait()
                if not self._turns or asyncio.get_running_loop().time() > self._fresh_until:
                    await self._read_turns()
                shard = self._turns.popleft()
            if claim := await self._queue.claim_revocation(shard):
                return claim

    async def _read_turns(self) -> None:
        """Read which shards' revocations go next; wait until there are any."""
        while True:
            self._wake_up.clear()
            try:
                self._turns = deque(await self._queue.next_shards())
            except Unavailable as error:  # the store logs, once, that Redis is away
                log.debug("revocations_unreachable", cause=error.cause)
                self._turns.clear()
            if self._turns:
                # Woken while Redis answered: what was queued meanwhile may be missing, so the next worker reads again.
                fresh_for_s = 0.0 if self._wake_up.is_set() else FRESH_FOR_S
                self._fresh_until = asyncio.get_running_loop().time() + fresh_for_s
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S * _spread()):
                    await self._wake_up.wait()

    async def _deliver(self, claim: Claim, on_sent: Callable[[], None]) -> None:
        """Revoke the cloud tokens one after the other, and record what came of it."""
        try:
            await self._revoke_all(claim, on_sent)
        except CannotOpen as error:
            # Another instance may have the newer sealing key already.
            await self._postpone(claim, error, counts=True)
        except QuotaRefusal:
            self._gate.note_refused()
            await self._record(claim, "queued", again_in_ms=REFUSED_AGAIN_MS, tried=False)
        except CloudError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                self._gate.note_answered()
            await self._postpone(claim, error, counts=error.kind not in RETRIED)
        else:
            self._gate.note_answered()
            await self._confirm(claim)

    async def _revoke_all(self, claim: Claim, on_sent: Callable[[], None]) -> None:
        """Revoke each cloud token. Raises ``CannotOpen`` and ``CloudError``."""
        deadline = asyncio.get_running_loop().time() + SEND_WITHIN_S
        for each in self._tokens.open(claim.sealed, claim.client_id, claim.handle):
            await self._revoke_at_cloud(each.token, _rank(claim), deadline, on_sent)

    async def _revoke_at_cloud(
        self, token: CloudToken, rank: CallRank, deadline: float, on_sent: Callable[[], None]
    ) -> None:
        """Revoke one cloud token. If the cloud may not know it, QueryToken decides: not valid is as good as revoked."""
        try:
            await self._cloud.revoke_token(token, rank=rank, deadline=deadline, on_sent=on_sent)
        except CloudError as error:
            if error.kind not in MAYBE_UNKNOWN or await self._cloud.query_token(token, rank=rank, deadline=deadline):
                raise

    async def _confirm(self, claim: Claim) -> None:
        if not await self._record(claim, "confirmed"):
            return
        self._confirmed()
        if self._close_connections:
            await self._close_connection(claim)

    async def _close_connection(self, claim: Claim) -> None:
        """Close the device's connection, once; a failure does not change that the revocation is confirmed."""
        deadline = asyncio.get_running_loop().time() + SEND_WITHIN_S / 2
        try:
            await self._cloud.close_connection(claim.client_id, rank=_rank(claim), deadline=deadline)
            detail = "after its token was revoked"
        except CloudError as error:
            log.warning("connection_not_closed", client_id=claim.client_id, cause=str(error))
            if not error.uncertain:
                return
            detail = outcome_unknown(error.code)
        event = Event(SERVER, EventKind.CONNECTION_CLOSED, detail)
        stream = Shard.of(claim.client_id).audit
        await self._recorder.record(NewEntry(stream, event, claim.client_id, claim.handle))

    async def _postpone(self, claim: Claim, error: Exception, *, counts: bool) -> None:
        """Try again later, or give up after ``MAX_ATTEMPTS``.

        ``counts`` False: this is not an attempt, because nothing is learned about a revocation while the cloud is down.
        """
        if counts and claim.attempts + 1 >= MAX_ATTEMPTS:
            log.error("revocation_failed", handle=claim.handle, cause=str(error))
            await self._record(claim, "failed")
            return
        backoff_ms = min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** min(claim.tries, 10))
        again_in_ms = int(backoff_ms * _spread())
        log.warning("revocation_postponed", handle=claim.handle, cause=str(error), again_in_ms=again_in_ms)
        await self._record(claim, "queued", again_in_ms=again_in_ms, counts=counts)

    async def _record(
        self, claim: Claim, outcome: Outcome, *, again_in_ms: int = 0, counts: bool = True, tried: bool = True
    ) -> bool:
        """Record the outcome of a claim; False if the claim lapsed: the worker that has it now records its own."""
        record = partial(
            self._queue.record_delivery, claim, outcome, again_in_ms=again_in_ms, counts=counts, tried=tried
        )
        recorded = await retry_until(record, within_s=RECORD_WITHIN_S)
        if not recorded:
            log.warning("revocation_overtaken", handle=claim.handle)
        return recorded


def _rank(claim: Claim) -> CallRank:
    """Return the rank of the calls for a revocation: operators' before devices' own."""
    return CallRank.RENEWAL if claim.priority is Priority.DEVICE else CallRank.OPERATOR


def _spread() -> float:
    """Return a factor near 1, so that instances do not all look at the same moment."""
    return random.uniform(0.8, 1.2)  # noqa: S311 (no secret, only spread)
