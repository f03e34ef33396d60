"""Revocation (RFC 7009): local first, then delivered to the cloud from a queue that survives every instance."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from app.cloud.client import CloudClient
from app.cloud.errors import RETRIED, CloudError
from app.errors import InvalidRequest, Unavailable
from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service.api_keys import Bearer
from app.service.audit import tell
from app.service.authenticate import Credentials
from app.service.held import Holder
from app.store.audit import Act, What
from app.store.connection import delays
from app.store.keys import Shard
from app.store.revocations import CLAIM_MS, Claim, Revocations
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens
from app.tasks import end

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
SEND_WITHIN_S: Final = CLAIM_MS / 1000 * 0.6
"""Well inside the claim, so that no other worker sends the same meanwhile."""

SIDE_BY_SIDE: Final = 4
"""Deliveries under way at once, of one instance."""

CONFIRM_WITHIN_S: Final = 1.0
"""How long the answer to a revoke waits for the cloud's word."""

FIRST_BACKOFF_MS: Final = 1_000
LAST_BACKOFF_MS: Final = 30_000
MAX_ATTEMPTS: Final = 30


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a revoke: gone here in any case; ``confirmed`` says that it is gone at the broker too."""

    handle: str
    confirmed: bool


class Revoker:
    """Revokes a token for its own device, or any for a service."""

    def __init__(self, holder: Holder, tokens: Tokens, delivery: Delivery) -> None:
        """``delivery`` is told at once that there is something to deliver."""
        self._holder = holder
        self._tokens = tokens
        self._delivery = delivery

    async def revoke(self, credentials: Credentials | Bearer, token: Secret) -> Revoked | None:
        """Revoke the token, from this moment on at every instance; None if there was nothing to revoke.

        An unknown token is no error (RFC 7009 section 2.2); another device's is ``InvalidRequest`` (section 2.1).
        Raises the refusals of ``Holder.identify`` as well.
        """
        caller = await self._holder.identify(credentials, Right.REVOKE)
        record = await self._holder.find(token)
        if record is None:
            return None
        if not caller.owns(record):
            raise InvalidRequest("the token was not issued to this client", cause=f"it is {record.client_id}'s")
        changed = await self._tokens.revoke(record, by=caller.actor)
        if changed:
            tell(Act(caller.actor, What.REVOKED), client_id=record.client_id, handle=record.handle)
        self._delivery.wake()
        return Revoked(record.handle, confirmed=await self._confirmed(record.handle))

    async def _confirmed(self, handle: str) -> bool:
        deadline = asyncio.get_running_loop().time() + CONFIRM_WITHIN_S
        for delay_s in delays():
            record = await self._tokens.read(handle)
            if record is None or record.revocation in {"confirmed", "lapsed"}:
                return True
            if asyncio.get_running_loop().time() + delay_s > deadline:
                return False
            await asyncio.sleep(delay_s)
        raise AssertionError("the delays never end")


class Delivery:
    """Takes due revocations from the queue, any instance's, and brings them to the cloud."""

    def __init__(
        self, revocations: Revocations, tokens: Tokens, cloud: CloudClient, *, close_connections: bool = False
    ) -> None:
        """Claim from ``revocations``, open with ``tokens``, send through ``cloud``.

        ``close_connections``: cut the device off as well, for the broker looks at a token only when it is used.
        """
        self._revocations = revocations
        self._tokens = tokens
        self._cloud = cloud
        self._close_connections = close_connections
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at the queue now rather than at the next second."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled. A claim given up by the cancellation falls to another worker when it lapses.

        Some go side by side, so that one that hangs at the cloud does not hold up the others.
        """
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._woken.clear()
                try:
                    for shard in await self._revocations.due_shards():
                        if len(under_way) < SIDE_BY_SIDE:
                            task = asyncio.create_task(self._deliver_one(shard))
                            under_way.add(task)
                            task.add_done_callback(under_way.discard)
                except Unavailable as error:  # the store tells, once, that Redis is away
                    log.debug("revocations_unreachable", cause=error.cause)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S * _spread()):
                        await self._woken.wait()
        finally:
            await end(under_way)

    async def _deliver_one(self, shard: Shard) -> None:
        try:
            if claim := await self._revocations.claim(shard):
                await self._deliver(claim)
                self.wake()
        except Unavailable as error:
            log.warning("revocation_unsettled", cause=error.cause)
        except Exception:
            log.exception("delivery_broken")

    async def _deliver(self, claim: Claim) -> None:
        try:
            for each in self._tokens.open(claim.sealed, claim.client_id, claim.handle):
                deadline = asyncio.get_running_loop().time() + SEND_WITHIN_S / 2
                await self._cloud.revoke_token(each.token, deadline=deadline)
        except CannotOpen as error:
            # Another instance may hold the newer key already.
            await self._postpone(claim, error, counts=True)
        except CloudError as error:
            await self._postpone(claim, error, counts=error.kind not in RETRIED)
        else:
            await self._revocations.settle(claim, "confirmed")
            tell(Act("cloud", What.CONFIRMED), client_id=claim.client_id, handle=claim.handle)
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

    async def _postpone(self, claim: Claim, error: Exception, *, counts: bool) -> None:
        # While the cloud is down nothing is learned about this revocation: ``counts`` False, it costs no attempt.
        if counts and claim.attempts + 1 >= MAX_ATTEMPTS:
            log.error("revocation_failed", handle=claim.handle, cause=str(error))
            tell(Act("cloud", What.FAILED), client_id=claim.client_id, handle=claim.handle)
            await self._revocations.settle(claim, "failed")
            return
        backoff_ms = min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** min(claim.tries, 10))
        again_in_ms = int(backoff_ms * _spread())
        log.warning("revocation_postponed", handle=claim.handle, cause=str(error), again_in_ms=again_in_ms)
        await self._revocations.settle(claim, "queued", again_in_ms=again_in_ms, counts=counts)


def _spread() -> float:
    """Return a factor near 1, so that instances do not all look at one moment."""
    return random.uniform(0.8, 1.2)  # noqa: S311 (no secret, only spread)
