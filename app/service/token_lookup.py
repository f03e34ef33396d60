"""Finding the token that a caller holds in hand, and whose it is (RFC 7662 section 2.1, RFC 7009 section 2.1)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final

from app.errors import Unavailable
from app.model.api_keys import Right
from app.model.grants import TokenType
from app.model.secrets import CloudToken, Secret
from app.service.api_keys import Bearer, KeyCheck
from app.service.authenticate import Authenticator, ClientCredentials, refuse_used
from app.store.records import TokenRecord
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens

MAX_TOKEN_CHARS: Final = 16 * 1024
_PAIR_TYPES: Final = "|".join(TokenType)
_PASSWORD: Final = re.compile(rf"(?:{_PAIR_TYPES})\|[^|]+(?:\|(?:{_PAIR_TYPES})\|[^|]+){{0,2}}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks about a token, proven: a device about its own, or a service about any (``client_id`` None)."""

    actor: str
    client_id: str | None

    def owns(self, record: TokenRecord) -> bool:
        """Tell whether the token is any of the caller's business."""
        return self.client_id in (None, record.client_id)


class TokenLookup:
    """Authenticates a caller and finds the token it names."""

    def __init__(self, authenticator: Authenticator, key_check: KeyCheck, tokens: Tokens) -> None:
        """Devices prove themselves to ``authenticator``, services to ``key_check``; records are in ``tokens``."""
        self._authenticator = authenticator
        self._key_check = key_check
        self._tokens = tokens

    async def identify(self, caller: ClientCredentials | Bearer, right: Right) -> Caller:
        """Verify the caller: a service by its key, which needs ``right``; a device, whose assertion is used up.

        Raises ``InvalidClient``, ``InvalidRequest``, ``InvalidToken``, ``InsufficientScope``, ``Unavailable``.
        """
        if isinstance(caller, Bearer):
            return Caller((await self._key_check.verify(caller, right)).actor_name, client_id=None)
        client_id = await self._identify_device(caller)
        return Caller(f"device:{client_id}", client_id)

    async def _identify_device(self, credentials: ClientCredentials) -> str:
        request = secrets.token_urlsafe(16)
        proven = await self._authenticator.verify(credentials)
        status = await self._tokens.use(proven.device, request, proven.jti, proven.used_until_ms)
        if status == "stale":
            proven = await self._authenticator.verify_fresh(credentials)
            status = await self._tokens.use(proven.device, request, proven.jti, proven.used_until_ms)
        refuse_used(status)
        if status == "stale":
            raise Unavailable("this device's registration is being changed; ask again")
        return proven.device.client_id

    async def find(self, token: Secret) -> TokenRecord | None:
        """Find the record of an ``access_token`` or a handle; None for what is unknown, foreign or malformed."""
        text = token.reveal()
        if len(text) > MAX_TOKEN_CHARS:
            return None
        if "|" not in text:
            return await self._tokens.read(text)
        if not _PASSWORD.fullmatch(text):
            return None
        parts = text.split("|")
        pairs = {(TokenType(type_), CloudToken(token)) for type_, token in zip(parts[::2], parts[1::2], strict=True)}
        handle = await self._tokens.handle_of([token for _, token in pairs])
        record = await self._tokens.read(handle) if handle else None
        if record is None or record.sealed is None:
            return record
        try:
            issued = self._tokens.open(record.sealed, record.client_id, record.handle)
        except CannotOpen:
            return record
        # Our own tokens under wrong labels are no password that we gave.
        return record if pairs <= {(each.type, each.token) for each in issued} else None
