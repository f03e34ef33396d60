"""The groups and the device credentials of the sandbox, in memory and in its database (guide chapters 11 and 14).

A credential belongs to a group: the database deletes it with its group.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

import aiosqlite

from app.model.devices import ClientId, group_id
from app.model.secrets import AccessKeySecret

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS groups (
    instance_id TEXT NOT NULL, group_id TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (instance_id, group_id)
) STRICT;
CREATE TABLE IF NOT EXISTS initial_groups (
    instance_id TEXT NOT NULL, group_id TEXT NOT NULL, PRIMARY KEY (instance_id, group_id)
) STRICT;
CREATE TABLE IF NOT EXISTS credentials (
    instance_id TEXT NOT NULL, client_id TEXT NOT NULL, group_id TEXT NOT NULL, access_key_id TEXT NOT NULL,
    secret TEXT NOT NULL, created_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (instance_id, client_id),
    FOREIGN KEY (instance_id, group_id) REFERENCES groups ON DELETE CASCADE
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group. It cannot be changed (11.1), so its update time is its creation time."""

    instance_id: str
    group_id: str
    created_at_ms: int


class GroupTable:
    """Every group."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._groups: dict[tuple[str, str], GroupRecord] = {}

    def find_group(self, instance_id: str, group_id: str) -> GroupRecord | None:
        """Return the group, or ``None`` if there is none."""
        return self._groups.get((instance_id, group_id))

    def list_groups(self, instance_id: str) -> list[GroupRecord]:
        """Return the groups of one instance, the newest first, as in the guide's sample (11.2)."""
        return [group for group in reversed(self._groups.values()) if group.instance_id == instance_id]

    async def create_group(self, group: GroupRecord) -> None:
        """Store a group that the caller has just looked for in vain.

        There is no ``await`` between that and the change in memory, so one of two simultaneous calls finds the other's
        group.
        """
        key = (group.instance_id, group.group_id)
        self._groups[key] = group
        try:
            await self._database.execute("INSERT INTO groups VALUES (?, ?, ?)", (*key, group.created_at_ms))
        except sqlite3.Error:
            del self._groups[key]
            raise

    async def create_initial_group(self, group: GroupRecord) -> None:
        """Create a group at the first start that names it: a later start does not restore a deleted one."""
        key = (group.instance_id, group.group_id)
        cursor = await self._database.execute("INSERT OR IGNORE INTO initial_groups VALUES (?, ?)", key)
        if cursor.rowcount and key not in self._groups:
            await self.create_group(group)

    async def delete_group(self, group: GroupRecord) -> None:
        """Delete a group."""
        key = (group.instance_id, group.group_id)
        await self._database.execute("DELETE FROM groups WHERE instance_id = ? AND group_id = ?", key)
        self._groups.pop(key, None)

    async def load(self) -> None:
        """Read the database."""
        for row in await self._database.execute_fetchall(
            "SELECT instance_id, group_id, created_at_ms FROM groups ORDER BY rowid"
        ):
            group = GroupRecord(*row)
            self._groups[group.instance_id, group.group_id] = group


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRecord:
    """The key that one client ID signs in with; it is valid for no other client ID."""

    instance_id: str
    client_id: ClientId
    access_key_id: str
    secret: AccessKeySecret
    created_at_ms: int
    updated_at_ms: int


class CredentialTable:
    """The latest credential of every client ID."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._credentials: dict[tuple[str, str], CredentialRecord] = {}

    def find_credential(self, instance_id: str, client_id: str) -> CredentialRecord | None:
        """Return the credential of ``client_id``, or ``None`` if there is none."""
        return self._credentials.get((instance_id, client_id))

    async def register_credential(self, credential: CredentialRecord) -> None:
        """Store a credential, replacing an earlier one. Raises ``sqlite3.IntegrityError`` if its group is missing."""
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

    async def refresh_credential(self, credential: CredentialRecord) -> bool:
        """Store the new secret of a credential; return ``False`` if the credential no longer exists."""
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

    async def remove_credential(self, credential: CredentialRecord) -> None:
        """Delete the credential of a client ID."""
        key = (credential.instance_id, credential.client_id)
        await self._database.execute("DELETE FROM credentials WHERE instance_id = ? AND client_id = ?", key)
        self._credentials.pop(key, None)

    def forget_group(self, group: GroupRecord) -> None:
        """Forget the credentials of a deleted group; the database has deleted them already, by its foreign key."""
        for key, credential in list(self._credentials.items()):
            if key[0] == group.instance_id and group_id(credential.client_id) == group.group_id:
                del self._credentials[key]

    async def load(self) -> None:
        """Read the database."""
        for row in await self._database.execute_fetchall(
            "SELECT instance_id, client_id, access_key_id, secret, created_at_ms, updated_at_ms FROM credentials"
        ):
            instance_id, client_id, access_key_id, secret, created_at_ms, updated_at_ms = row
            self._credentials[instance_id, client_id] = CredentialRecord(
                instance_id=instance_id,
                client_id=ClientId(client_id),
                access_key_id=access_key_id,
                secret=AccessKeySecret(secret),
                created_at_ms=created_at_ms,
                updated_at_ms=updated_at_ms,
            )
