"""Which connections may stay open: how many in total and per source address, and how long a client may be waited for.

A connection is accepted before it is known what it is for. So where there is no room, the connection that has waited
longest for its client is closed for the new one. Where all others wait for this server, the new one gets a place in a
reserve: only health checks and the console are served there, and everything else is refused. There is no I/O here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from app.model.ip_addresses import Networks, contains, network_of, parse_address
from app.web.connection_groups import ConnectionGroup, ConnectionPool, OpenConnection

log = structlog.get_logger(__name__)

RESERVE_PER_SOURCE: Final = 16
"""Connections beyond a source's limit that are refused by an answer; those beyond are closed without one."""

TOTAL: Final = "MAX_CONNECTIONS"
PER_SOURCE: Final = "MAX_CONNECTIONS_PER_ADDRESS"

_CURES: Final = {
    TOTAL: "run more instances, or raise MAX_CONNECTIONS",
    PER_SOURCE: "if this is the address of a load balancer, add it to TRUSTED_PROXIES; if many devices share it, raise "
    "MAX_CONNECTIONS_PER_ADDRESS",
}
_CHECKED_AT_ONCE: Final = 500
_LOG_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open, and how long each may let this server wait, in seconds.

    ``headers_s`` is for all headers of a request: of the first one from the connection's beginning, of each later one
    from its first byte. ``idle_s`` is between two requests. Within ``unread_s`` a client must read all that was sent
    to it, or another 48 KiB. ``unlimited`` are the sources without a limit of their own. ``backlog`` is how many may
    wait to be accepted.
    """

    total: int = 10_000
    reserve: int = 128
    per_source: int = 200
    unlimited: Networks = ()
    backlog: int = 128
    headers_s: float = 10.0
    idle_s: float = 75.0
    unread_s: float = 20.0

    @property
    def check_every_s(self) -> float:
        """How often each connection is checked."""
        return min(1.0, self.headers_s / 4, self.unread_s / 4)


class Admission(Enum):
    """Whether a new connection may stay."""

    SERVED = "served"
    SOURCE_FULL = "source full"
    """In the reserve: too many connections of its source wait for this server."""
    FULL = "full"
    """In the reserve: too many connections wait for this server."""
    CLOSED = "closed"
    """The reserve is full, too: it must be closed."""


class _LimitLog:
    """What each limit did, logged as one entry, at most every ten seconds."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._most = {TOTAL: limits.total, PER_SOURCE: limits.per_source}
        self._counts: dict[str, Counter[str]] = {}
        self._sources: dict[str, str | None] = {}
        self._written_at = float("-inf")

    def count(self, setting: str, what: str, source: str | None) -> None:
        """Count a connection from ``source``."""
        self._counts.setdefault(setting, Counter())[what] += 1
        self._sources[setting] = source

    def write(self, now: float, *, open_connections: int) -> None:
        """Log what was counted, unless an entry was written less than ten seconds ago."""
        if not self._counts or now - self._written_at < _LOG_EVERY_S:
            return
        self._written_at = now
        for setting, counts in self._counts.items():
            log.warning(
                "connections_limited",
                setting=setting,
                most=self._most[setting],
                **counts,
                open_connections=open_connections,
                last_address=self._sources[setting],
                cure=_CURES[setting],
            )
        self._counts = {}


class ConnectionTable:
    """All connections of an instance."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float]) -> None:
        """``clock`` is the loop's time."""
        self.limits = limits
        self._clock = clock
        self._open: dict[OpenConnection, str | None] = {}
        self._all = ConnectionGroup(TOTAL, ConnectionPool(limits.total), ConnectionPool(limits.reserve))
        self._sources: dict[str, ConnectionGroup] = {}
        self._log = _LimitLog(limits)

    def __len__(self) -> int:
        """How many are open, also those that are about to be closed."""
        return len(self._open)

    def add(self, connection: OpenConnection, address: str) -> Admission:
        """Add a new connection from ``address``, and return whether it may stay. Another one may be closed for it."""
        source = source_of(address, self.limits.unlimited)
        self._open[connection] = source
        admission = self._join_source(connection, source) if source is not None else Admission.SERVED
        if admission is not Admission.CLOSED:
            in_all = self._join(self._all, connection, Admission.FULL)
            admission = admission if in_all is Admission.SERVED else in_all
        if admission is Admission.CLOSED:
            self._release(connection)
        return admission

    def discard(self, connection: OpenConnection) -> None:
        """Remove a connection that is closed."""
        self._release(connection)
        self._open.pop(connection, None)

    async def check_regularly(self) -> None:
        """Close the connections whose clients let this server wait too long, until cancelled."""
        while True:
            await asyncio.sleep(self.limits.check_every_s)
            for number, connection in enumerate(list(self._open), 1):
                connection.close_if_overdue(self._clock())
                if number % _CHECKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._log.write(self._clock(), open_connections=len(self))

    def _join_source(self, connection: OpenConnection, source: str) -> Admission:
        group = self._sources.get(source) or ConnectionGroup(
            PER_SOURCE, ConnectionPool(self.limits.per_source), ConnectionPool(RESERVE_PER_SOURCE)
        )
        admission = self._join(group, connection, Admission.SOURCE_FULL)
        # Again, too: it is removed when its only connection is closed for this one.
        self._sources[source] = group
        return admission

    def _join(self, group: ConnectionGroup, connection: OpenConnection, if_full: Admission) -> Admission:
        if (closed := group.excess(self._clock())) is not None:
            self._log.count(group.setting, "closed", self._open.get(closed))
            # At once: it is closed in a later turn of the loop, and others may be accepted in this one.
            self._release(closed)
            closed.close_for_another()
        if group.served.has_room:
            group.served.members[connection] = None
            return Admission.SERVED
        if group.reserve.has_room:
            group.reserve.members[connection] = None
            self._log.count(group.setting, "in_reserve", self._open[connection])
            return if_full
        self._log.count(group.setting, "dropped", self._open[connection])
        return Admission.CLOSED

    def _release(self, connection: OpenConnection) -> None:
        """Give the connection's place to others."""
        self._all.discard(connection)
        source = self._open.get(connection)
        if source is not None and (group := self._sources.get(source)) is not None:
            group.discard(connection)
            if group.is_empty:
                del self._sources[source]


def source_of(address: str, unlimited: Networks) -> str | None:
    """Return the name under which an address is limited, or None for one that is not limited.

    Not limited are a loopback address, one of ``unlimited``, and what is not an IP address (a Unix socket).
    """
    parsed = parse_address(address)
    if parsed is None or parsed.is_loopback or contains(unlimited, parsed):
        return None
    return network_of(address)
