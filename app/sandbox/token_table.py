"""The tokens that the sandbox has issued, in memory and in its database (guide chapters 10.1 to 10.3).

Only the SHA-256 of a token is stored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Final

import aiosqlite

from app.model.grants import TokenType
from app.model.secrets import CloudToken

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY, type TEXT NOT NULL, resources TEXT NOT NULL, access_key_id TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
"""


class TokenStanding(Enum):
    """Whether a token is valid at a given moment."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxToken:
    """The facts of an issued token, without the token itself."""

    sha256: str
    type: TokenType
    resources: tuple[str, ...]
    access_key_id: str
    expires_at_ms: int


def sha256_of(token: CloudToken) -> str:
    """Return the hex SHA-256 under which ``token`` is stored."""
    return hashlib.sha256(token.reveal().encode(errors="surrogatepass")).hexdigest()


class TokenTable:
    """Every token that has not expired long ago."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._tokens: dict[str, SandboxToken] = {}
        self._revoked: set[str] = set()

    def list_tokens(self) -> list[SandboxToken]:
        """Return the tokens in the order in which they were issued."""
        return list(self._tokens.values())

    def find_token(self, token: CloudToken) -> SandboxToken | None:
        """Return the facts of ``token``, or ``None`` if the sandbox has not issued it."""
        return self._tokens.get(sha256_of(token))

    def standing(self, token: SandboxToken, now_ms: int) -> TokenStanding:
        """Return whether ``token`` is valid at ``now_ms``."""
        if token.sha256 in self._revoked:
            return TokenStanding.REVOKED
        return TokenStanding.EXPIRED if token.expires_at_ms <= now_ms else TokenStanding.VALID

    async def issue_token(self, token: SandboxToken) -> None:
        """Store a new token."""
        await self._database.execute(
            "INSERT INTO tokens (sha256, type, resources, access_key_id, expires_at_ms) VALUES (?, ?, ?, ?, ?)",
            (token.sha256, token.type.value, json.dumps(token.resources), token.access_key_id, token.expires_at_ms),
        )
        self._tokens[token.sha256] = token

    async def revoke_token(self, token: SandboxToken) -> None:
        """Make ``token`` invalid for good; a second time changes nothing."""
        # In memory first: from here on every check refuses it, even if the database cannot be written.
        self._revoked.add(token.sha256)
        await self._database.execute("UPDATE tokens SET revoked = 1 WHERE sha256 = ?", (token.sha256,))

    async def drop_expired(self, before_ms: int) -> None:
        """Forget the tokens that expired before ``before_ms``."""
        for sha256 in [key for key, token in self._tokens.items() if token.expires_at_ms < before_ms]:
            del self._tokens[sha256]
            self._revoked.discard(sha256)
        await self._database.execute("DELETE FROM tokens WHERE expires_at_ms < ?", (before_ms,))

    async def load(self) -> None:
        """Read the database."""
        for row in await self._database.execute_fetchall(
            "SELECT sha256, type, resources, access_key_id, expires_at_ms, revoked FROM tokens"
        ):
            sha256, type_, resources, access_key_id, expires_at_ms, revoked = row
            self._tokens[sha256] = SandboxToken(
                sha256=sha256,
                type=TokenType(type_),
                resources=tuple(json.loads(resources)),
                access_key_id=access_key_id,
                expires_at_ms=expires_at_ms,
            )
            if revoked:
                self._revoked.add(sha256)
