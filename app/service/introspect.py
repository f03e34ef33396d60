"""Introspection (RFC 7662): is this token active, and for what?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service.api_keys import Bearer
from app.service.client_credentials import ClientCredentials
from app.service.confirm import Confirmer
from app.service.request_limiter import RequestLimiter
from app.service.token_lookup import TokenLookup
from app.store.clock import RedisClock
from app.store.records import TokenRecord
from app.store.tokens import Tokens

ANSWERING_S: Final = 1.0
"""Kept back from the caller's deadline for what follows the cloud's answer."""


@dataclass(frozen=True, slots=True)
class Introspection:
    """What a live token is (RFC 7662 section 2.2); times in seconds since 1970.

    ``cloud_checked`` says whether the cloud itself confirmed it, now or in the last few seconds.
    """

    handle: str
    client_id: str
    scope: str
    issued_at_s: int
    expires_at_s: int
    cloud_checked: bool


class Introspector:
    """Answers a device that asks about its own token, and a service that asks about any."""

    def __init__(
        self, lookup: TokenLookup, tokens: Tokens, confirmer: Confirmer, clock: RedisClock, *, limiter: RequestLimiter
    ) -> None:
        """Find callers and tokens by ``lookup``; ``confirmer`` asks the cloud, whose answer decides.

        ``limiter`` counts each request that is passed to ``introspect``.
        """
        self._lookup = lookup
        self._tokens = tokens
        self._confirmer = confirmer
        self._clock = clock
        self._limiter = limiter

    async def introspect(
        self, credentials: ClientCredentials | Bearer, token: Secret, *, address: str, deadline: float
    ) -> Introspection | None:
        """Return what the token is, or None if it is not active or not the caller's.

        ``address`` is the caller's IP address, or empty; ``deadline`` is loop time in seconds. Raises the refusals of
        ``TokenLookup.identify``.
        """
        answer_from = deadline - ANSWERING_S
        caller = await self._lookup.identify(credentials, Right.INTROSPECT, address=address, deadline=answer_from)
        record = await self._lookup.find_token(token)
        # A device learns nothing of others' tokens, not even that they exist.
        if record is None or not caller.owns(record) or not self._is_live(record):
            return None
        is_valid = self._confirmer.recent_answer(record.handle)
        if is_valid is None:
            with self._limiter.suspended():
                is_valid = await self._confirmer.ask(record, answer_from)
            # Asking took a while: a revoke may have been answered meanwhile.
            if not self._is_live(await self._tokens.read_token(record.handle)):
                return None
        return None if is_valid is False else _describe(record, cloud_checked=is_valid is not None)

    def _is_live(self, record: TokenRecord | None) -> bool:
        return record is not None and record.state == "live" and record.expires_at_ms > self._clock.now_ms()


def _describe(record: TokenRecord, *, cloud_checked: bool) -> Introspection:
    return Introspection(
        handle=record.handle,
        client_id=record.client_id,
        scope=record.scope,
        issued_at_s=record.issued_at_ms // 1000,
        expires_at_s=record.expires_at_ms // 1000,
        cloud_checked=cloud_checked,
    )
