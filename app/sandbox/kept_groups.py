"""The group IDs that the sandbox keeps (guide chapter 11)."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

import aiosqlite

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS groups (
    instance_id TEXT NOT NULL, group_id TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (instance_id, group_id)
) STRICT;
CREATE TABLE IF NOT EXISTS initial_groups (
    instance_id TEXT NOT NULL, group_id TEXT NOT NULL, PRIMARY KEY (instance_id, group_id)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Group:
    """A group ID. It cannot be changed (11.1), so it was last updated when it was created."""

    instance_id: str
    group_id: str
    created_at_ms: int


class Groups:
    """Every group, in memory and in the file."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._groups: dict[tuple[str, str], Group] = {}

    def get(self, instance_id: str, group_id: str) -> Group | None:
        """Return the group, or nothing."""
        return self._groups.get((instance_id, group_id))

    def of(self, instance_id: str) -> list[Group]:
        """Return the groups of one instance, the newest first, as the guide's sample has them (11.2)."""
        return [group for group in reversed(self._groups.values()) if group.instance_id == instance_id]

    async def create(self, group: Group) -> None:
        """Keep a group that was not there.

        In memory without a pause after the caller has looked, so of two at once only one finds its name free.
        """
        key = (group.instance_id, group.group_id)
        self._groups[key] = group
        try:
            await self._database.execute("INSERT INTO groups VALUES (?, ?, ?)", (*key, group.created_at_ms))
        except sqlite3.Error:
            del self._groups[key]
            raise

    async def create_initial(self, group: Group) -> None:
        """Create a group that a sandbox is started with, once: if it was deleted since it is not brought back."""
        key = (group.instance_id, group.group_id)
        cursor = await self._database.execute("INSERT OR IGNORE INTO initial_groups VALUES (?, ?)", key)
        if cursor.rowcount and key not in self._groups:
            await self.create(group)

    async def delete(self, group: Group) -> None:
        """Forget a group."""
        key = (group.instance_id, group.group_id)
        await self._database.execute("DELETE FROM groups WHERE instance_id = ? AND group_id = ?", key)
        self._groups.pop(key, None)

    async def read(self) -> None:
        """Read the file."""
        for row in await self._database.execute_fetchall(
            "SELECT instance_id, group_id, created_at_ms FROM groups ORDER BY rowid"
        ):
            group = Group(*row)
            self._groups[group.instance_id, group.group_id] = group
