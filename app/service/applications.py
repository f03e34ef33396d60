"""Applications for tokens: one call to the cloud for all requests that wait for the same grant.

An application is the instance's task, not a request's: it goes on when the caller hangs up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from app.cloud.client import AppliedTokens, CloudClient
from app.cloud.errors import RETRIED, CloudError
from app.cloud.quota import CloudClosed, QuotaExhausted, QuotaRefusal
from app.errors import Unavailable
from app.model.actors import Actor
from app.model.calls import CallRank
from app.model.grants import Grant
from app.model.lifetimes import MIN_LIFETIME_S
from app.store.clock import RedisClock
from app.store.constants import LEASE_MS
from app.store.records import MAY_APPLY, ApplicationLease, ApplyRefusals, CloudTokenOfType, TokenRequest
from app.store.redis_keys import Handle
from app.store.retry import backoff, retry_until
from app.store.tokens import Tokens
from app.tasks import end

log = structlog.get_logger(__name__)

APPLY_DEADLINE_S: Final = 8.0
"""An application that takes longer has failed."""

QUEUE_SHARE: Final = 0.75
"""No application is started whose token would take longer than this share of that time: 6 s, and as the queue keeps an
eighth for the call, with permits within 5.25 s. The rest is for those that every instance starts at this moment: they
would be refused in the queue, with twice the work."""

STORE_DEADLINE_S: Final = 20.0
"""How long storing what the cloud gave is tried: Redis may be restarting."""

GIVE_UP_WITHIN_S: Final = 1.0
"""How long an instance that stops tries to give up its leases; after that they run out."""

JITTER: Final = 0.03
"""Tokens that are made at one time must not all expire at one time: up to this share of the life is taken off."""

JITTER_FROM_LIFE_S: Final = 600

MARK_S: Final = 1
LONG_MARK_S: Final = 3
"""How long the mark of a failure keeps others from applying: longer where only a person can mend it."""

MAX_MARK_S: Final = 60
"""However long the cloud asks to be left alone, it is called again after this time."""


class Applications:
    """The applications of this instance, and the waiting for those of any instance."""

    def __init__(self, tokens: Tokens, cloud: CloudClient, clock: RedisClock, applied: Callable[[], None]) -> None:
        """Apply through ``cloud``, store in ``tokens``, and call ``applied`` for each new token."""
        self._tokens = tokens
        self._cloud = cloud
        self._clock = clock
        self._applied = applied
        self._own: dict[Handle, asyncio.Task[None]] = {}
        self._watches: dict[Handle, asyncio.Task[None]] = {}

    def refusals(self, grant: Grant) -> ApplyRefusals:
        """Return why a token for ``grant`` cannot be applied for, by rank, where that is known.

        The queue for permits is too long, or the cloud does not answer and is left alone.
        """
        within_s = APPLY_DEADLINE_S * QUEUE_SHARE
        first = self._refusal(grant, CallRank.FIRST, within_s)
        renewal = self._refusal(grant, CallRank.RENEWAL, within_s)
        if first is None and renewal is None:
            return MAY_APPLY
        return ApplyRefusals(*(each.kind.value if each else "" for each in (first, renewal)))

    def takes_longer(self, grant: Grant, *, rank: CallRank, than_s: float) -> bool:
        """Return whether a token for ``grant`` comes later than in ``than_s`` seconds, as far as is known.

        Its permits must come within seven eighths of that: the rest is for the calls.
        """
        return self._refusal(grant, rank, than_s) is not None

    def _refusal(self, grant: Grant, rank: CallRank, within_s: float) -> QuotaExhausted | CloudClosed | None:
        deadline = asyncio.get_running_loop().time() + within_s
        return self._cloud.refusal("ApplyToken", len(grant.split()), rank=rank, deadline=deadline)

    def start(self, lease: ApplicationLease, grant: Grant, *, rank: CallRank, actor: Actor) -> None:
        """Start to apply; ``rank`` says before whom, and the audit names ``actor``, the device.

        A request that is sent again and holds the lease already changes nothing.
        """
        if lease.handle not in self._own:
            apply = partial(self._apply, lease, grant, rank=rank, actor=actor)
            task = asyncio.create_task(self._run_application(lease, apply), name=f"apply {lease.handle}")
            self._own[lease.handle] = task
            task.add_done_callback(lambda _: self._own.pop(lease.handle))

    async def wait_until_done(self, token_request: TokenRequest, application: Handle, until: float) -> None:
        """Wait until an application ends, here or at another instance, or until ``until`` (loop time, in seconds)."""
        task = self._own.get(application) or self._watch(token_request, application)
        await asyncio.wait([task], timeout=max(0.0, until - asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """End what is still under way after a moment. Leases are given up, so another instance takes over at once."""
        await end(self._watches.values())
        if self._own:
            await asyncio.wait(self._own.values(), timeout=GIVE_UP_WITHIN_S)
        await end(self._own.values(), again_after_s=2 * GIVE_UP_WITHIN_S)

    def _watch(self, token_request: TokenRequest, application: Handle) -> asyncio.Task[None]:
        """Return the one task that watches another instance's application for all of this instance's requests."""
        if application not in self._watches:
            task = asyncio.create_task(self._poll_until_done(token_request, application), name=f"watch {application}")
            self._watches[application] = task
            task.add_done_callback(lambda _: self._watches.pop(application))
        return self._watches[application]

    async def _poll_until_done(self, token_request: TokenRequest, application: Handle) -> None:
        # An application that never ends cannot keep this going: its lease runs out.
        for delay_s in backoff():
            await asyncio.sleep(delay_s)
            try:
                if not await self._tokens.is_under_way(token_request, application):
                    return
            except Unavailable:
                continue

    async def _run_application(self, lease: ApplicationLease, apply: Callable[[], Awaitable[None]]) -> None:
        """Apply under the lease, and leave no lease behind, also after a fault."""
        keeper = asyncio.create_task(self._keep_lease(lease), name=f"keep {lease.handle}")
        try:
            await apply()
        except asyncio.CancelledError:
            await retry_until(lambda: self._tokens.fail(lease, mark_ms=0, counts=False), within_s=GIVE_UP_WITHIN_S)
            raise
        except Unavailable as error:
            log.error("application_lost", handle=lease.handle, cause=error.cause)  # noqa: TRY400 (expected: no traceback)
        except Exception:
            log.exception("application_broken", handle=lease.handle)
            await retry_until(lambda: self._tokens.fail(lease, MARK_S * 1000, counts=True), within_s=GIVE_UP_WITHIN_S)
        finally:
            await end([keeper])

    async def _apply(self, lease: ApplicationLease, grant: Grant, *, rank: CallRank, actor: Actor) -> None:
        """Call the cloud, and record the failure, the tokens, or both where only one half came."""
        deadline = asyncio.get_running_loop().time() + APPLY_DEADLINE_S
        applied = await self._cloud.apply_tokens(
            grant.split(), partial(self._expiry_ms, lease.wanted.life_s), rank=rank, deadline=deadline
        )
        if applied.errors:
            await self._fail(lease, applied.errors[0])
        if applied.tokens:
            await self._store(lease, applied, actor)

    async def _store(self, lease: ApplicationLease, applied: AppliedTokens, actor: Actor) -> None:
        """Store the cloud tokens; the script queues them for revocation where they are no longer wanted, or not all."""
        cloud_tokens = tuple(CloudTokenOfType(*each) for each in applied.tokens.items())
        store = partial(self._tokens.store, lease, cloud_tokens, applied.expires_at_ms, actor=actor)
        outcome = await retry_until(partial(store, whole=not applied.errors), within_s=STORE_DEADLINE_S)
        if outcome == "stored":
            self._applied()

    async def _fail(self, lease: ApplicationLease, error: CloudError) -> None:
        """Give the lease up and leave a mark, so that requests that waited do not all apply one after another."""
        is_passing = error.kind in RETRIED
        mark_s = _mark_s(error)
        log.warning("application_failed", handle=lease.handle, cause=str(error), again_in_s=mark_s)
        # An outage does not count against the device. A grant that the cloud never gives, asked for repeatedly, does.
        fail = partial(self._tokens.fail, lease, int(mark_s * 1000), counts=not is_passing, why=error.kind.value)
        await retry_until(fail, within_s=STORE_DEADLINE_S)

    def _expiry_ms(self, life_s: int) -> int:
        """Compute ExpireTime (guide chapter 10.1): never nearer than the cloud accepts, never later than asked for."""
        life_ms = max(life_s, MIN_LIFETIME_S) * 1000
        if life_s > JITTER_FROM_LIFE_S:
            life_ms -= int(life_ms * random.uniform(0, JITTER))  # noqa: S311 (no secret, only spread)
        return self._clock.now_ms() + life_ms

    async def _keep_lease(self, lease: ApplicationLease) -> None:
        """Extend the lease three times in its life, until cancelled."""
        while True:
            await asyncio.sleep(LEASE_MS / 1000 / 3)
            try:
                await self._tokens.extend(lease)
            except Unavailable as error:
                log.warning("lease_not_extended", handle=lease.handle, cause=error.cause)


def _mark_s(error: CloudError) -> float:
    """Return for how many seconds no other request may apply: as long as the cloud asks, within bounds."""
    if isinstance(error, QuotaRefusal):
        return MARK_S  # the cloud was not called: who comes back when they were promised is not held up by the mark
    if error.kind in RETRIED:
        return min(MAX_MARK_S, max(MARK_S, error.retry_after_s or 0))
    return LONG_MARK_S
