"""The state of the sandbox: its SQLite database, a copy of it in memory, and its clock.

Every question is answered from memory, so that the broker can authorize without waiting. A change is in the database
before it is answered. The write-ahead log survives ``kill -9`` of the process; a power failure may lose the last
moment. The secrets of device credentials are stored as they are, because a password is checked by computing it, so
only the owner can read the file (mode 0600).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiosqlite

from app.errors import Misconfigured
from app.sandbox import device_tables, token_table
from app.sandbox.device_tables import CredentialTable, GroupRecord, GroupTable
from app.sandbox.token_table import TokenTable

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS nonces (
    access_key_id TEXT NOT NULL, nonce TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (access_key_id, nonce)
) STRICT;
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY, qos INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
"""

_LOCK_DEADLINE_S: Final = 1.0
_CLEAN_EVERY_MS: Final = 60_000
_KEEP_EXPIRED_MS: Final = 24 * 3600 * 1000
"""How long an expired token is still distinguished from a forged one."""

MAX_RETAINED: Final = 1000
"""Topics that may have a retained message: publishers must not be able to fill the memory."""


class SandboxClock:
    """The only clock of gateway and broker: wall time plus an offset that tests and rehearsals may change."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._on_move: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        """Return the sandbox's time in milliseconds since the epoch."""
        return round((time.time() + self.offset_s) * 1000)

    def on_move(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever the clock is moved, because other deadlines may now be due."""
        self._on_move.append(callback)

    def move(self, offset_s: float) -> None:
        """Run ``offset_s`` seconds ahead of wall time from now on (behind it if negative)."""
        self.offset_s = offset_s
        for callback in self._on_move:
            callback()


@dataclass(frozen=True, slots=True)
class RetainedMessage:
    """The last retained message of a topic (MQTT 3.1.1 section 3.3.1.3)."""

    qos: int
    payload: bytes


class SandboxState:
    """Tokens, groups, credentials, spent nonces and retained messages."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self.tokens = TokenTable(database)
        self.groups = GroupTable(database)
        self.credentials = CredentialTable(database)
        self.retained: dict[str, RetainedMessage] = {}
        self._nonces: dict[tuple[str, str], int] = {}
        self._clean_at_ms = 0

    @classmethod
    async def open(cls, path: Path | str) -> Self:
        """Open or create the database at ``path`` and read it. Raises ``Misconfigured`` if that is not possible."""
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
            await _prepare(database)
            await state._load()
        except sqlite3.Error as error:
            await database.close()
            raise Misconfigured(f"the sandbox cannot use its database {path}: {error}") from error
        except BaseException:
            await database.close()
            raise
        return state

    async def close(self) -> None:
        """Close the database; it holds every change that was answered."""
        await self._database.close()

    async def delete_group(self, group: GroupRecord) -> None:
        """Delete a group and the credentials of its devices."""
        await self.groups.delete_group(group)
        self.credentials.forget_group(group)

    async def spend_nonce(self, access_key_id: str, nonce: str, *, now_ms: int, until_ms: int) -> bool:
        """Spend a nonce until ``until_ms``; return ``False`` if it was spent already.

        There is no ``await`` between the check and the change in memory, so one of two equal requests is refused.
        """
        await self._clean(now_ms)
        key = (access_key_id, nonce)
        if self._nonces.get(key, 0) > now_ms:
            return False
        self._nonces[key] = until_ms
        await self._database.execute("INSERT OR REPLACE INTO nonces VALUES (?, ?, ?)", (*key, until_ms))
        return True

    async def retain_message(self, topic: str, message: RetainedMessage) -> None:
        """Store ``message`` for ``topic``; an empty payload deletes the one before (section 3.3.1.3)."""
        if not message.payload:
            self.retained.pop(topic, None)
            await self._database.execute("DELETE FROM retained WHERE topic = ?", (topic,))
        elif topic in self.retained or len(self.retained) < MAX_RETAINED:
            self.retained[topic] = message
            await self._database.execute(
                "INSERT OR REPLACE INTO retained VALUES (?, ?, ?)", (topic, message.qos, message.payload)
            )

    async def _load(self) -> None:
        await self._clean(_wall_ms())
        await self.groups.load()
        await self.credentials.load()
        await self.tokens.load()
        for access_key_id, nonce, until_ms in await self._database.execute_fetchall("SELECT * FROM nonces"):
            self._nonces[access_key_id, nonce] = until_ms
        for topic, qos, payload in await self._database.execute_fetchall("SELECT * FROM retained"):
            self.retained[topic] = RetainedMessage(qos, payload)

    async def _clean(self, now_ms: int) -> None:
        """Delete what no later request can use. A clock moved ahead in a rehearsal, and back, deletes nothing."""
        now_ms = min(now_ms, _wall_ms())
        if now_ms < self._clean_at_ms:
            return
        self._clean_at_ms = now_ms + _CLEAN_EVERY_MS
        for key in [key for key, until_ms in self._nonces.items() if until_ms < now_ms]:
            del self._nonces[key]
        await self.tokens.drop_expired(now_ms - _KEEP_EXPIRED_MS)
        await self._database.execute("DELETE FROM nonces WHERE until_ms < ?", (now_ms,))


async def _prepare(database: aiosqlite.Connection) -> None:
    # A second sandbox on the same file would not see the revocations of the first: the lock refuses it.
    await database.execute("PRAGMA locking_mode=EXCLUSIVE")
    await database.execute("PRAGMA journal_mode=WAL")
    await database.execute("PRAGMA synchronous=NORMAL")
    await database.execute("PRAGMA foreign_keys=ON")
    await database.executescript(_SCHEMA + token_table.SCHEMA + device_tables.SCHEMA)


def _make_private(path: Path | str) -> None:
    """Create the file for its owner alone; SQLite gives the files beside it the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    Path(path).chmod(0o600)


def _wall_ms() -> int:
    return round(time.time() * 1000)
