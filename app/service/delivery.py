"""Delivering revocations to the cloud (guide chapter 10.3), from a queue that survives every instance."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

import structlog

from app.cloud.client import CloudClient
from app.cloud.errors import RETRIED, CloudError, ErrorKind
from app.errors import Unavailable
from app.model.secrets import CloudToken
from app.store.constants import CLAIM_MS
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
"""An order of turns older than this is asked for again: what came meanwhile may go first."""

SEND_WITHIN_S: Final = CLAIM_MS / 1000 * 0.6
"""Well inside the claim, so that no other worker sends the same meanwhile."""

SETTLE_WITHIN_S: Final = 5.0

LINE_S: Final = 0.02
"""So much of the pace stands in line for permits. The rest stays in the queue, where a better one can still pass it."""

LATENCY_S: Final = 5.0
"""Up to this time of an answer from the cloud the pace is kept: so many deliveries go side by side."""

MIN_AT_ONCE: Final = 4
MAX_AT_ONCE: Final = 256

FIRST_BACKOFF_MS: Final = 1_000
LAST_BACKOFF_MS: Final = 30_000
MAX_ATTEMPTS: Final = 30

UNKNOWN: Final = frozenset({ErrorKind.PARAMETER, ErrorKind.PERMANENT})
"""What the cloud may say of a token that it does not know, or no more."""


class Delivery:
    """Takes revocations from the queue, any instance's, and brings them to the cloud at the pace of its quota."""

    def __init__(
        self,
        queue: RevocationQueue,
        tokens: Tokens,
        cloud: CloudClient,
        *,
        pace: float,
        close_connections: bool = False,
        confirmed: Callable[[], None] = lambda: None,
    ) -> None:
        """Claim from ``queue``, open with ``tokens``, send through ``cloud``, whose quota lets ``pace`` calls a second.

        The pace itself is kept by ``cloud``; this only makes room for it. ``close_connections``: cut the device off as
        well, for the broker looks at a token only when it is used. ``confirmed`` is told of each that is done.
        """
        self._close_connections = close_connections
        self._confirmed = confirmed
        self._queue = queue
        self._tokens = tokens
        self._cloud = cloud
        self._at_once = min(MAX_AT_ONCE, max(MIN_AT_ONCE, math.ceil(pace * LATENCY_S)))
        self._line = asyncio.Semaphore(max(2, math.ceil(pace * LINE_S)))
        self._looking = asyncio.Lock()
        self._turns: deque[Shard] = deque()
        self._fresh_until = 0.0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at the queue now rather than at the next second."""
        self._fresh_until = 0.0
        self._woken.set()

    async def deliver_revocations(self) -> None:
        """Deliver until cancelled. A claim given up by the cancellation falls to another worker when it lapses."""
        workers = [asyncio.create_task(self._work(), name=f"deliver {number}") for number in range(self._at_once)]
        try:
            await asyncio.gather(*workers)
        finally:
            await end(workers)

    async def _work(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._line:
                    claim = await self._next()
                    deadline = loop.time() + SEND_WITHIN_S
                    permitted = await self._permitted(claim, deadline)
                if permitted:
                    await self._deliver(claim, deadline)
            except Unavailable as error:
                log.warning("revocation_unsettled", cause=error.cause)
                self._turns.clear()
            except Exception:
                log.exception("delivery_broken")
                await asyncio.sleep(LOOK_EVERY_S)

    async def _next(self) -> Claim:
        """Claim the revocation whose turn is first over all shards; wait until there is one."""
        while True:
            async with self._looking:
                if not self._turns or asyncio.get_running_loop().time() > self._fresh_until:
                    await self._look()
                shard = self._turns.popleft()
            if claim := await self._queue.claim_revocation(shard):
                return claim

    async def _look(self) -> None:
        while True:
            self._woken.clear()
            try:
                self._turns = deque(await self._queue.next_shards())
            except Unavailable as error:  # the store tells, once, that Redis is away
                log.debug("revocations_unreachable", cause=error.cause)
                self._turns.clear()
            if self._turns:
                self._fresh_until = asyncio.get_running_loop().time() + FRESH_FOR_S
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S * _spread()):
                    await self._woken.wait()

    async def _permitted(self, claim: Claim, deadline: float) -> bool:
        try:
            await self._cloud.permits("RevokeToken", 1, deadline=deadline)
        except CloudError as error:
            await self._postpone(claim, error, counts=False)
            return False
        return True

    async def _deliver(self, claim: Claim, deadline: float) -> None:
        """Revoke the cloud tokens one after the other. The permit for the first is there."""
        try:
            for position, each in enumerate(self._tokens.open(claim.sealed, claim.client_id, claim.handle)):
                if position > 0:
                    await self._cloud.permits("RevokeToken", 1, deadline=deadline)
                await self._revoke(each.token, deadline)
        except CannotOpen as error:
            # Another instance may hold the newer key already.
            await self._postpone(claim, error, counts=True)
        except CloudError as error:
            await self._postpone(claim, error, counts=error.kind not in RETRIED)
        else:
            if not await self._settle(claim, "confirmed"):
                return
            self._confirmed()
            if self._close_connections:
                await self._close_connection(claim)

    async def _close_connection(self, claim: Claim) -> None:
        """Cut the device's connection, once: what fails here takes nothing back of what is confirmed."""
        deadline = asyncio.get_running_loop().time() + SEND_WITHIN_S / 2
        try:
            await self._cloud.close_connection(claim.client_id, deadline=deadline)
        except CloudError as error:
            log.warning("connection_not_closed", client_id=claim.client_id, cause=str(error))
        else:
            log.info("connection_closed", client_id=claim.client_id)

    async def _revoke(self, token: CloudToken, deadline: float) -> None:
        """Revoke one cloud token; one that the cloud does not know is asked for: not valid is as good as revoked."""
        try:
            await self._cloud.revoke_token(token, deadline=deadline)
        except CloudError as error:
            if error.kind not in UNKNOWN or await self._cloud.query_token(token, deadline=deadline):
                raise

    async def _postpone(self, claim: Claim, error: Exception, *, counts: bool) -> None:
        # While the cloud is down nothing is learned about this revocation: ``counts`` False, it costs no attempt.
        if counts and claim.attempts + 1 >= MAX_ATTEMPTS:
            log.error("revocation_failed", handle=claim.handle, cause=str(error))
            await self._settle(claim, "failed")
            return
        backoff_ms = min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** min(claim.tries, 10))
        again_in_ms = int(backoff_ms * _spread())
        log.warning("revocation_postponed", handle=claim.handle, cause=str(error), again_in_ms=again_in_ms)
        await self._settle(claim, "queued", again_in_ms=again_in_ms, counts=counts)

    async def _settle(self, claim: Claim, outcome: Outcome, *, again_in_ms: int = 0, counts: bool = True) -> bool:
        """Record what came of a claim; False: it had fallen to another meanwhile, whose word it is now."""
        settle = partial(self._queue.record_delivery, claim, outcome, again_in_ms=again_in_ms, counts=counts)
        ours = await retry_until(settle, within_s=SETTLE_WITHIN_S)
        if not ours:
            log.warning("revocation_overtaken", handle=claim.handle)
        return ours


def _spread() -> float:
    """Return a factor near 1, so that instances do not all look at one moment."""
    return random.uniform(0.8, 1.2)  # noqa: S311 (no secret, only spread)
