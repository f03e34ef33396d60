"""Introspection (RFC 7662): is this token good, and for what?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from app.cloud.client import CloudClient
from app.cloud.errors import CloudError
from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service.api_keys import Bearer
from app.service.authenticate import Credentials
from app.service.held import Holder
from app.store.clock import Clock
from app.store.records import TokenRecord
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens

log = structlog.get_logger(__name__)

CLOUD_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Introspection:
    """What a live token is (RFC 7662 section 2.2); times in seconds since 1970.

    ``cloud_checked`` tells whether the cloud itself confirmed it just now.
    """

    handle: str
    client_id: str
    scope: str
    issued_at_s: int
    expires_at_s: int
    cloud_checked: bool


class Introspector:
    """Answers a device that asks about its own token, and a service that asks about any."""

    def __init__(self, holder: Holder, tokens: Tokens, cloud: CloudClient, clock: Clock) -> None:
        """Callers and tokens are found by ``holder``; ``cloud`` has the last word while it can be asked."""
        self._holder = holder
        self._tokens = tokens
        self._cloud = cloud
        self._clock = clock

    async def introspect(
        self, credentials: Credentials | Bearer, token: Secret, *, deadline: float
    ) -> Introspection | None:
        """Return what the token is, or None if it is not active or not the caller's.

        ``deadline`` is loop time in seconds. Raises the refusals of ``Holder.identify``.
        """
        caller = await self._holder.identify(credentials, Right.INTROSPECT)
        record = await self._holder.find(token)
        # A device learns nothing of others' tokens, not even that they exist.
        if record is None or not caller.owns(record):
            return None
        if record.state != "live" or record.expires_at_ms <= self._clock.now_ms():
            return None
        status = await self._ask_cloud(record, deadline)
        # Asking took a while: a revoke may have been answered meanwhile.
        now = await self._tokens.read(record.handle)
        if status is False or now is None or now.state != "live":
            return None
        return Introspection(
            handle=record.handle,
            client_id=record.client_id,
            scope=record.scope,
            issued_at_s=record.issued_at_ms // 1000,
            expires_at_s=record.expires_at_ms // 1000,
            cloud_checked=status is not None,
        )

    async def _ask_cloud(self, record: TokenRecord, deadline: float) -> bool | None:
        """Ask QueryToken about each cloud token (guide chapter 10.2); None if it cannot be asked now."""
        if record.sealed is None:
            return None
        until = min(deadline - 1.0, asyncio.get_running_loop().time() + CLOUD_TIMEOUT_S)
        try:
            cloud_tokens = self._tokens.open(record.sealed, record.client_id, record.handle)
            answers = [await self._cloud.query_token(each.token, deadline=until) for each in cloud_tokens]
        except (CloudError, CannotOpen) as error:
            log.warning("introspection_without_cloud", handle=record.handle, cause=str(error))
            return None
        return all(answers)
