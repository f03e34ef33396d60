"""Connections that share a limit, and which of them gives way to another one. There is no I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

_SEARCH_S_PER_CONNECTION: Final = 20e-6
"""The least time between two searches for what can be closed, per open connection: searches take a few percent."""
_SMALL: Final = 128
"""So few connections are always searched: that takes less than accepting another one."""


class OpenConnection(Protocol):
    """A connection, as far as it is limited."""

    @property
    def waiting_since(self) -> float | None:
        """Since when (loop time) its client is waited for; None while this server has to do something for it."""

    def close_for_another(self) -> None:
        """Close it, because another one needs its place."""

    def close_if_overdue(self, now: float) -> None:
        """Close it if its client has let this server wait too long."""


@dataclass(slots=True)
class ConnectionPool:
    """Connections that share a limit."""

    most: int
    members: dict[OpenConnection, None] = field(default_factory=dict)
    _waiting: list[tuple[float, int, OpenConnection]] = field(default_factory=list)
    _searched_at: float = float("-inf")

    @property
    def has_room(self) -> bool:
        """Whether another connection may be added."""
        return len(self.members) < self.most

    def longest_waiting(self, now: float) -> OpenConnection | None:
        """Return the member whose client has been waited for longest, or None if none is known."""
        while True:
            while self._waiting:
                since, _, connection = self._waiting.pop()
                # It may have been closed, or have sent a request, since the search.
                if connection in self.members and connection.waiting_since == since:
                    return connection
            if len(self.members) > _SMALL and now - self._searched_at < len(self.members) * _SEARCH_S_PER_CONNECTION:
                return None
            self._searched_at = now
            self._waiting = sorted(self._search(), reverse=True)
            if not self._waiting:
                return None

    def _search(self) -> Iterator[tuple[float, int, OpenConnection]]:
        for number, connection in enumerate(self.members):
            if (since := connection.waiting_since) is not None:
                yield since, number, connection


@dataclass(slots=True)
class ConnectionGroup:
    """The connections that one setting limits, and the reserve beyond it."""

    setting: str
    served: ConnectionPool
    reserve: ConnectionPool

    @property
    def is_empty(self) -> bool:
        """Whether it has no connection at all."""
        return not self.served.members and not self.reserve.members

    def excess(self, now: float) -> OpenConnection | None:
        """Return the connection to close so that another one has a place; None if there is room, or none can be."""
        if self.served.has_room:
            return None
        connection = self.served.longest_waiting(now)
        if connection is None and not self.reserve.has_room:
            connection = self.reserve.longest_waiting(now)
        return connection

    def discard(self, connection: OpenConnection) -> None:
        """Remove a connection, if it has it."""
        self.served.members.pop(connection, None)
        self.reserve.members.pop(connection, None)
