"""Revocation of one token by its device or by a service (RFC 7009): here first, then at the cloud."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from app.errors import InvalidRequest
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service.api_keys import Bearer
from app.service.client_credentials import ClientCredentials
from app.service.delivery import Delivery
from app.service.request_limiter import RequestLimiter
from app.service.token_lookup import TokenLookup
from app.store.records import Priority
from app.store.retry import backoff
from app.store.tokens import Tokens

CONFIRM_WITHIN_S: Final = 1.0
"""How long the answer to a revoke waits for the cloud's confirmation."""


@dataclass(frozen=True, slots=True)
class OwnRevocation:
    """A token that is revoked here; ``confirmed`` says whether it is revoked at the broker too."""

    handle: str
    confirmed: bool


class Revoker:
    """Revokes a device's own token for the device, and any token for a service."""

    def __init__(self, lookup: TokenLookup, tokens: Tokens, delivery: Delivery, *, limiter: RequestLimiter) -> None:
        """``delivery`` is notified at once, to send the revocation to the cloud.

        ``limiter`` counts each request that is passed to ``revoke``.
        """
        self._lookup = lookup
        self._tokens = tokens
        self._delivery = delivery
        self._limiter = limiter

    async def revoke(
        self,
        credentials: ClientCredentials | Bearer,
        token: Secret,
        *,
        address: str,
        deadline: float,
        request_id: str = "",
    ) -> OwnRevocation | None:
        """Revoke the token, from this moment on at every instance; None if there was nothing to revoke.

        An unknown token is not an error (RFC 7009 section 2.2); another device's is ``InvalidRequest`` (section 2.1).
        Raises the refusals of ``TokenLookup.identify`` as well; ``address`` is the caller's IP address, or empty, and
        ``deadline`` loop time in seconds.
        """
        caller = await self._lookup.identify(
            credentials, Right.REVOKE, address=address, deadline=deadline - 2 * CONFIRM_WITHIN_S
        )
        record = await self._lookup.find_token(token)
        if record is None:
            return None
        if not caller.owns(record):
            raise InvalidRequest("the token was not issued to this client", cause=f"it is {record.client_id}'s")
        priority = Priority.DEVICE if caller.client_id else Priority.OPERATOR
        await self._tokens.revoke_token(record, priority, actor=Actor(caller.actor, request_id))
        self._delivery.wake()
        return OwnRevocation(record.handle, confirmed=await self._confirmed(record.handle))

    async def _confirmed(self, handle: str) -> bool:
        """Wait a moment for the cloud's confirmation."""
        deadline = asyncio.get_running_loop().time() + CONFIRM_WITHIN_S
        for delay_s in backoff():
            record = await self._tokens.read_token(handle)
            if record is None or record.revocation in {"confirmed", "lapsed"}:
                return True
            if asyncio.get_running_loop().time() + delay_s > deadline:
                return False
            with self._limiter.suspended():
                await asyncio.sleep(delay_s)
        raise AssertionError("the delays never end")
