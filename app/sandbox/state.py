"""What the sandbox keeps in its SQLite file and, for speed, in memory: the file itself, tokens, spent nonces, messages.

Memory answers every question, so that the broker can authorise without waiting; a change is in the file before it is
answered. The write-ahead log outlives ``kill -9`` of the process; for the last moment before a power failure a
stand-in makes no promise. Of a token only its SHA-256 is kept. The secrets of device credentials are kept as they are,
for a password is checked by computing it, so the file is its owner's alone (mode 0600).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Self

import aiosqlite

from app.errors import Misconfigured
from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.sandbox import kept_credentials, kept_groups
from app.sandbox.kept_credentials import Credentials
from app.sandbox.kept_groups import Group, Groups

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY, type TEXT NOT NULL, resources TEXT NOT NULL, access_key_id TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS nonces (
    access_key_id TEXT NOT NULL, nonce TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (access_key_id, nonce)
) STRICT;
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY, qos INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
"""

_LOCK_DEADLINE_S: Final = 1.0
_SWEEP_EVERY_MS: Final = 60_000
_KEEP_EXPIRED_MS: Final = 24 * 3600 * 1000
"""For so long an expired token is still told from a forged one."""

MAX_RETAINED: Final = 1000
"""Topics that may hold a retained message; a bound, so that publishers cannot fill the memory."""


class Standing(Enum):
    """Whether a token is good right now."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Token:
    """The facts of an issued token, without the token."""

    sha256: str
    type: TokenType
    resources: tuple[str, ...]
    access_key_id: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Retained:
    """The last retained message of a topic (MQTT 3.1.1 section 3.3.1.3)."""

    qos: int
    payload: bytes


def sha256_of(token: CloudToken) -> str:
    """Return the hex SHA-256 under which ``token`` is kept."""
    return hashlib.sha256(token.reveal().encode(errors="surrogatepass")).hexdigest()


class State:
    """The sandbox's memory, written through to one SQLite file."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self.groups = Groups(database)
        self.credentials = Credentials(database)
        self.tokens: dict[str, Token] = {}
        self.retained: dict[str, Retained] = {}
        self._revoked: set[str] = set()
        self._nonces: dict[tuple[str, str], int] = {}
        self._sweep_at_ms = 0

    @classmethod
    async def open(cls, path: Path | str) -> Self:
        """Open or create the file at ``path`` and read it. Raises ``Misconfigured`` if that cannot be."""
        try:
            _make_private(path)
            # First without aiosqlite, which leaves its thread behind when it cannot open the file.
            sqlite3.connect(path).close()
        except (OSError, sqlite3.Error) as error:
            raise Misconfigured(f"the sandbox cannot open its database {path}: {error}") from error
        # Each statement is a transaction of its own.
        database = await aiosqlite.connect(path, isolation_level=None, timeout=_LOCK_DEADLINE_S)
        state = cls(database)
        try:
            # A second sandbox on the same file would not see this one's revocations, so there is none.
            await database.execute("PRAGMA locking_mode=EXCLUSIVE")
            await database.execute("PRAGMA journal_mode=WAL")
            await database.execute("PRAGMA synchronous=NORMAL")
            await database.execute("PRAGMA foreign_keys=ON")
            await database.executescript(_SCHEMA + kept_groups.SCHEMA + kept_credentials.SCHEMA)
            await state._read()
        except sqlite3.Error as error:
            await database.close()
            raise Misconfigured(f"the sandbox cannot use its database {path}: {error}") from error
        except BaseException:
            await database.close()
            raise
        return state

    async def close(self) -> None:
        """Close the file; what was answered is in it."""
        await self._database.close()

    async def delete_group(self, group: Group) -> None:
        """Forget a group, and the credentials of its devices."""
        await self.groups.delete(group)
        self.credentials.forget_group(group)  # the file has already, by its foreign key

    async def issue(self, token: Token) -> None:
        """Keep a new token."""
        await self._database.execute(
            "INSERT INTO tokens (sha256, type, resources, access_key_id, expires_at_ms) VALUES (?, ?, ?, ?, ?)",
            (token.sha256, token.type.value, json.dumps(token.resources), token.access_key_id, token.expires_at_ms),
        )
        self.tokens[token.sha256] = token

    def find(self, token: CloudToken) -> Token | None:
        """Return the facts of ``token``, or nothing if it was never issued here."""
        return self.tokens.get(sha256_of(token))

    def standing(self, token: Token, now_ms: int) -> Standing:
        """Tell how ``token`` stands at ``now_ms``."""
        if token.sha256 in self._revoked:
            return Standing.REVOKED
        return Standing.EXPIRED if token.expires_at_ms <= now_ms else Standing.VALID

    async def revoke(self, token: Token) -> None:
        """Make ``token`` invalid for good; a second time changes nothing."""
        self._revoked.add(token.sha256)  # first in memory: from here on no check lets it pass, whatever the disk does
        await self._database.execute("UPDATE tokens SET revoked = 1 WHERE sha256 = ?", (token.sha256,))

    async def spend_nonce(self, access_key_id: str, nonce: str, *, now_ms: int, until_ms: int) -> bool:
        """Spend a nonce until ``until_ms``; ``False`` if it was spent already.

        Asked and marked without a pause in between, so of two equal requests at once only one passes.
        """
        await self._sweep(now_ms)
        key = (access_key_id, nonce)
        if self._nonces.get(key, 0) > now_ms:
            return False
        self._nonces[key] = until_ms
        await self._database.execute("INSERT OR REPLACE INTO nonces VALUES (?, ?, ?)", (*key, until_ms))
        return True

    async def retain(self, topic: str, message: Retained) -> None:
        """Keep ``message`` for ``topic``; an empty payload forgets it (section 3.3.1.3)."""
        if not message.payload:
            self.retained.pop(topic, None)
            await self._database.execute("DELETE FROM retained WHERE topic = ?", (topic,))
        elif topic in self.retained or len(self.retained) < MAX_RETAINED:
            self.retained[topic] = message
            await self._database.execute(
                "INSERT OR REPLACE INTO retained VALUES (?, ?, ?)", (topic, message.qos, message.payload)
            )

    async def _read(self) -> None:
        await self._sweep(_wall_ms())
        await self.groups.read()
        await self.credentials.read()
        for row in await self._database.execute_fetchall(
            "SELECT sha256, type, resources, access_key_id, expires_at_ms, revoked FROM tokens"
        ):
            sha256, type_, resources, access_key_id, expires_at_ms, revoked = row
            self.tokens[sha256] = Token(
                sha256, TokenType(type_), tuple(json.loads(resources)), access_key_id, expires_at_ms
            )
            if revoked:
                self._revoked.add(sha256)
        for access_key_id, nonce, until_ms in await self._database.execute_fetchall("SELECT * FROM nonces"):
            self._nonces[access_key_id, nonce] = until_ms
        for topic, qos, payload in await self._database.execute_fetchall("SELECT * FROM retained"):
            self.retained[topic] = Retained(qos, payload)

    async def _sweep(self, now_ms: int) -> None:
        """Drop what can no longer matter. A clock moved ahead in a rehearsal, and back, forgets nothing."""
        now_ms = min(now_ms, _wall_ms())
        if now_ms < self._sweep_at_ms:
            return
        self._sweep_at_ms = now_ms + _SWEEP_EVERY_MS
        for sha256 in [key for key, token in self.tokens.items() if token.expires_at_ms < now_ms - _KEEP_EXPIRED_MS]:
            del self.tokens[sha256]
            self._revoked.discard(sha256)
        for key in [key for key, until_ms in self._nonces.items() if until_ms < now_ms]:
            del self._nonces[key]
        await self._database.execute("DELETE FROM tokens WHERE expires_at_ms < ?", (now_ms - _KEEP_EXPIRED_MS,))
        await self._database.execute("DELETE FROM nonces WHERE until_ms < ?", (now_ms,))


def _make_private(path: Path | str) -> None:
    """Make the file, and keep others out of it and of SQLite's files beside it, which take its mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    Path(path).chmod(0o600)


def _wall_ms() -> int:
    return round(time.time() * 1000)
