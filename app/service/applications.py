"""Flights: applying to the cloud once for all who wait.

An application is the instance's task, not a request's: a caller who hangs up does not take it along.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from app.cloud.client import CloudClient, effective_expiry_ms
from app.cloud.errors import RETRIED, CloudError
from app.cloud.quota import QuotaExhausted
from app.errors import Unavailable
from app.model.actors import SERVER, Actor
from app.model.grants import Grant, TokenType
from app.model.topics import TopicFilter
from app.rpc.catalog import MIN_TOKEN_LIFE_S
from app.service.audit import log_event
from app.store.audit import Event, EventKind
from app.store.clock import RedisClock
from app.store.constants import LEASE_MS
from app.store.records import ApplicationLease, CloudTokenOfType, TokenRequest
from app.store.redis_keys import Handle
from app.store.retry import backoff, retry_until
from app.store.tokens import Tokens
from app.tasks import end

log = structlog.get_logger(__name__)

APPLY_DEADLINE_S: Final = 8.0
"""An application that takes longer has failed."""

FULL_AT: Final = 0.75
"""The share of that time which the line may take before nothing more is begun. The rest is for what is being begun just
now, at every instance: it would be refused in the line itself, with twice the work."""

STORE_DEADLINE_S: Final = 20.0
"""What was obtained is kept trying to be stored for so long: Redis may be restarting."""

GIVE_UP_WITHIN_S: Final = 1.0
"""What a leader that stops has left to say so; after that its lease tells the same."""

MARGIN_S: Final = 5
"""Added to the cloud's least life, for the way there."""

JITTER: Final = 0.03
"""Tokens made at one time must not all end at one time: up to this share is taken off."""

JITTER_FROM_LIFE_S: Final = 600

MARK_S: Final = 1
LONG_MARK_S: Final = 3
"""How long a failure keeps others from trying: longer where only a person can mend it."""

MAX_MARK_S: Final = 60
"""However long the cloud asks to be left alone, somebody looks after this time."""


class Applications:
    """The applications of this instance, and the waiting for anybody's."""

    def __init__(self, tokens: Tokens, cloud: CloudClient, clock: RedisClock, applied: Callable[[], None]) -> None:
        """Apply through ``cloud``, store in ``tokens``, and tell ``applied`` of each new token."""
        self._tokens = tokens
        self._cloud = cloud
        self._clock = clock
        self._applied = applied
        self._own: dict[Handle, asyncio.Task[None]] = {}
        self._watches: dict[Handle, asyncio.Task[None]] = {}

    def refusal(self) -> QuotaExhausted | None:
        """Return why nothing more can be applied for in time, if so: the line for the quota is too long."""
        deadline = asyncio.get_running_loop().time() + APPLY_DEADLINE_S * FULL_AT
        return self._cloud.refusal("ApplyToken", deadline=deadline)

    def start(self, lead: ApplicationLease, grant: Grant) -> None:
        """Begin to apply; a resent request that leads already changes nothing."""
        if lead.handle not in self._own:
            task = asyncio.create_task(self._run_application(lead, grant), name=f"apply {lead.handle}")
            self._own[lead.handle] = task
            task.add_done_callback(lambda _: self._own.pop(lead.handle))

    async def wait_until_done(self, wanted: TokenRequest, application: Handle, until: float) -> None:
        """Wait until a flight is over, here or at another instance, or until ``until`` (loop time, in seconds)."""
        task = self._own.get(application) or self._watch(wanted, application)
        await asyncio.wait([task], timeout=max(0.0, until - asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """End what is still under way after a moment; its lead is given up, so another instance takes over at once."""
        await end(self._watches.values())
        if self._own:
            await asyncio.wait(self._own.values(), timeout=GIVE_UP_WITHIN_S)
        await end(self._own.values(), again_after_s=2 * GIVE_UP_WITHIN_S)

    def _watch(self, wanted: TokenRequest, application: Handle) -> asyncio.Task[None]:
        """One watch for all of this instance's requests that wait for another's flight."""
        if application not in self._watches:
            task = asyncio.create_task(self._poll_until_done(wanted, application), name=f"watch {application}")
            self._watches[application] = task
            task.add_done_callback(lambda _: self._watches.pop(application))
        return self._watches[application]

    async def _poll_until_done(self, wanted: TokenRequest, application: Handle) -> None:
        # A flight that never lands cannot keep this going: its lease runs out.
        for delay_s in backoff():
            await asyncio.sleep(delay_s)
            try:
                if not await self._tokens.is_under_way(wanted, application):
                    return
            except Unavailable:
                continue

    async def _run_application(self, lead: ApplicationLease, grant: Grant) -> None:
        keeper = asyncio.create_task(self._keep_lease(lead), name=f"keep {lead.handle}")
        try:
            await self._apply(lead, grant)
        except asyncio.CancelledError:
            await retry_until(lambda: self._tokens.fail(lead, mark_ms=0, counts=False), within_s=GIVE_UP_WITHIN_S)
            raise
        except Unavailable as error:
            log.error("application_lost", handle=lead.handle, cause=error.cause)  # noqa: TRY400 (expected: no traceback)
        except Exception:
            log.exception("application_broken", handle=lead.handle)
            await retry_until(lambda: self._tokens.fail(lead, MARK_S * 1000, counts=True), within_s=GIVE_UP_WITHIN_S)
        finally:
            await end([keeper])

    async def _apply(self, lead: ApplicationLease, grant: Grant) -> None:
        deadline = asyncio.get_running_loop().time() + APPLY_DEADLINE_S
        halves = grant.split()
        expires_at_ms = 0
        try:
            await self._cloud.permits("ApplyToken", len(halves), deadline=deadline)
            # Computed only now: the wait for a permit must not eat into the least life the cloud accepts.
            expires_at_ms = self._expiry_ms(lead.wanted.life_s)
        except CloudError as error:
            await self._give_up(lead, error)
            return
        results = await asyncio.gather(
            *(self._apply_half(type_, filters, expires_at_ms, deadline) for type_, filters in halves),
            return_exceptions=True,
        )
        obtained = tuple(result for result in results if isinstance(result, CloudTokenOfType))
        broken = [result for result in results if isinstance(result, BaseException)]
        unexpected = [error for error in broken if not isinstance(error, CloudError)]
        if broken:
            await self._give_up(lead, broken[0])
        if obtained:
            outcome = await retry_until(
                lambda: self._tokens.store(
                    lead,
                    obtained,
                    expires_at_ms,
                    whole=not broken,
                    actor=Actor(f"device:{lead.wanted.device.client_id}"),
                ),
                within_s=STORE_DEADLINE_S,
            )
            client_id = lead.wanted.device.client_id
            if outcome == "stored":
                self._applied()
            act = (
                Event(Actor(f"device:{client_id}"), EventKind.GRANTED)
                if outcome == "stored"
                else Event(SERVER, EventKind.DISCARDED)
            )
            log_event(act, client_id=client_id, handle=lead.handle, scope=lead.wanted.scope)
        if unexpected:
            raise unexpected[0]

    async def _apply_half(
        self, type_: TokenType, filters: tuple[TopicFilter, ...], expires_at_ms: int, deadline: float
    ) -> CloudTokenOfType:
        token = await self._cloud.apply_token(type_, filters, expires_at_ms, deadline=deadline)
        return CloudTokenOfType(type_, token)

    async def _give_up(self, lead: ApplicationLease, error: BaseException) -> None:
        mark_s: float = LONG_MARK_S
        passing = isinstance(error, CloudError) and error.kind in RETRIED
        if isinstance(error, CloudError) and passing:
            mark_s = min(MAX_MARK_S, max(MARK_S, error.retry_after_s or 0))
        log.warning("application_failed", handle=lead.handle, cause=str(error), again_in_s=mark_s)
        # An outage is not the device's doing; a grant that the cloud will never give, asked for again and again, is.
        why = error.kind.value if isinstance(error, CloudError) else ""
        fail = partial(self._tokens.fail, lead, int(mark_s * 1000), counts=not passing, why=why)
        await retry_until(fail, within_s=STORE_DEADLINE_S)

    def _expiry_ms(self, life_s: int) -> int:
        """Compute ExpireTime (guide chapter 10.1): never nearer than the cloud accepts, never later than asked for."""
        life_ms = max(life_s, MIN_TOKEN_LIFE_S + MARGIN_S) * 1000
        if life_s > JITTER_FROM_LIFE_S:
            life_ms -= int(life_ms * random.uniform(0, JITTER))  # noqa: S311 (no secret, only spread)
        now_ms = self._clock.now_ms()
        return effective_expiry_ms(now_ms + life_ms, now_ms)

    async def _keep_lease(self, lead: ApplicationLease) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            try:
                await self._tokens.extend(lead)
            except Unavailable as error:
                log.warning("lead_not_extended", handle=lead.handle, cause=error.cause)
