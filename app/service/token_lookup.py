"""Who asks about a token, and the record of the token they name (RFC 7662 section 2.1, RFC 7009 section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.model.api_keys import Right
from app.model.mqtt_password import MalformedPassword, parse_password
from app.model.secrets import Secret
from app.service.api_keys import Bearer, KeyCheck
from app.service.authenticate import Authenticator, ClientProof, VerifiedClient
from app.service.client_credentials import ClientCredentials
from app.service.request_limiter import RequestLimiter
from app.store.records import TokenRecord
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens

MAX_TOKEN_CHARS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks about a token, verified: a device about its own, or a service about any (``client_id`` None)."""

    actor: str
    client_id: str | None

    def owns(self, record: TokenRecord) -> bool:
        """Return whether the caller may know of this token."""
        return self.client_id in (None, record.client_id)


class TokenLookup:
    """Authenticates a caller and finds the token they name."""

    def __init__(
        self, authenticator: Authenticator, key_check: KeyCheck, tokens: Tokens, *, limiter: RequestLimiter
    ) -> None:
        """Verify devices with ``authenticator`` and services with ``key_check``; read records from ``tokens``.

        ``limiter`` counts each request whose caller is identified.
        """
        self._authenticator = authenticator
        self._key_check = key_check
        self._tokens = tokens
        self._limiter = limiter

    async def identify(
        self, caller: ClientCredentials | Bearer, right: Right, *, address: str, deadline: float
    ) -> Caller:
        """Verify the caller: a service by its key, which needs ``right``; a device, whose assertion is used up.

        ``address`` is the caller's IP address, or empty; ``deadline`` is loop time in seconds. Raises
        ``InvalidClient``, ``InvalidRequest``, ``InvalidToken``, ``TooManyFailures``, ``InsufficientScope``,
        ``Unavailable``.
        """
        if isinstance(caller, Bearer):
            with self._limiter.suspended():  # a wrong key may wait until it is counted
                key = await self._key_check.verify(caller, right, address=address)
            return Caller(key.actor_name, client_id=None)
        return await self._authenticator.authenticate(ClientProof(caller, address, deadline), self._use)

    async def _use(self, client: VerifiedClient) -> Caller:
        await self._tokens.use_assertion(
            client.device, request=client.request, jti=client.jti, used_until_ms=client.used_until_ms
        )
        return Caller(f"device:{client.device.client_id}", client.device.client_id)

    async def find_token(self, token: Secret) -> TokenRecord | None:
        """Find the record of an ``access_token`` or a handle; None for an unknown, foreign or malformed one.

        Raises ``Unavailable``.
        """
        text = token.reveal()
        if len(text) > MAX_TOKEN_CHARS:
            return None
        return await (self._find_password(text) if "|" in text else self._tokens.read_token(text))

    async def _find_password(self, text: str) -> TokenRecord | None:
        try:
            cloud_tokens = parse_password(text)
        except MalformedPassword:
            return None
        handle = await self._tokens.find_handle(list(cloud_tokens.values()))
        record = await self._tokens.read_token(handle) if handle else None
        if record is None or record.sealed is None:
            return record
        try:
            issued = self._tokens.open(record.sealed, record.client_id, record.handle)
        except CannotOpen:
            return record
        # This server's own tokens under wrong types are not a password that it issued.
        return record if cloud_tokens.items() <= {each.type: each.token for each in issued}.items() else None
