"""The device credentials that the sandbox keeps (guide chapter 14): one of a client ID, the latest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import aiosqlite

from app.model.devices import ClientId, group_id
from app.model.secrets import AccessKeySecret
from app.sandbox.kept_groups import Group

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS credentials (
    instance_id TEXT NOT NULL, client_id TEXT NOT NULL, group_id TEXT NOT NULL, access_key_id TEXT NOT NULL,
    secret TEXT NOT NULL, created_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (instance_id, client_id),
    FOREIGN KEY (instance_id, group_id) REFERENCES groups ON DELETE CASCADE
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """What one device signs in with; it serves this client ID and no other."""

    instance_id: str
    client_id: ClientId
    access_key_id: str
    secret: AccessKeySecret
    created_at_ms: int
    updated_at_ms: int


class Credentials:
    """Every credential, in memory and in the file."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._credentials: dict[tuple[str, str], Credential] = {}

    def get(self, instance_id: str, client_id: str) -> Credential | None:
        """Return the credential of ``client_id``, or nothing."""
        return self._credentials.get((instance_id, client_id))

    async def register(self, credential: Credential) -> None:
        """Keep a new credential in place of the one before. Raises ``sqlite3.IntegrityError`` without its group."""
        key = (credential.instance_id, credential.client_id)
        await self._database.execute(
            "INSERT OR REPLACE INTO credentials VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                group_id(credential.client_id),
                credential.access_key_id,
                credential.secret.reveal(),
                credential.created_at_ms,
                credential.updated_at_ms,
            ),
        )
        self._credentials[key] = credential

    async def refresh(self, credential: Credential) -> bool:
        """Keep a new secret of a credential; ``False`` if that is no longer there."""
        key = (credential.instance_id, credential.client_id)
        cursor = await self._database.execute(
            "UPDATE credentials SET secret = ?, updated_at_ms = ?"
            " WHERE instance_id = ? AND client_id = ? AND access_key_id = ?",
            (credential.secret.reveal(), credential.updated_at_ms, *key, credential.access_key_id),
        )
        if not cursor.rowcount:
            return False
        self._credentials[key] = credential
        return True

    async def remove(self, credential: Credential) -> None:
        """Forget the credential of a client ID."""
        key = (credential.instance_id, credential.client_id)
        await self._database.execute("DELETE FROM credentials WHERE instance_id = ? AND client_id = ?", key)
        self._credentials.pop(key, None)

    def forget_group(self, group: Group) -> None:
        """Forget the credentials of a group that is gone from the file, and they with it."""
        for key, credential in list(self._credentials.items()):
            if key[0] == group.instance_id and group_id(credential.client_id) == group.group_id:
                del self._credentials[key]

    async def read(self) -> None:
        """Read the file."""
        for row in await self._database.execute_fetchall(
            "SELECT instance_id, client_id, access_key_id, secret, created_at_ms, updated_at_ms FROM credentials"
        ):
            instance_id, client_id, access_key_id, secret, created_at_ms, updated_at_ms = row
            self._credentials[instance_id, client_id] = Credential(
                instance_id, ClientId(client_id), access_key_id, AccessKeySecret(secret), created_at_ms, updated_at_ms
            )
