"""The audit trail: who did what, to which device or token, in streams of bounded length.

What changes something writes its line in the very script that changes it (``audit`` in ``_shared.lua``), so that
nothing answered can lack its line. A stream's own IDs tell the time, by Redis's clock. No line holds a token, a secret
or an assertion: a token is named by its handle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Self

from app.model.actors import Actor
from app.store.constants import AUDIT_STREAM_LENGTH
from app.store.redis_keys import JOBS_AUDIT, OPERATORS_AUDIT, REFUSED_AUDIT, SHARDS, STRANGERS_AUDIT, Shard
from app.store.store import Store

STREAMS: Final = (
    *(Shard(number).audit for number in range(SHARDS)),
    JOBS_AUDIT,
    OPERATORS_AUDIT,
    REFUSED_AUDIT,
    STRANGERS_AUDIT,
)
MOST_LINES: Final = AUDIT_STREAM_LENGTH
"""About so many each stream keeps; the log, which is told the same, keeps all.

One takes 160 bytes: all streams together, when they are full, 106 MB.
"""

_LINES_A_ROUND: Final = 500
"""Read at a time, so that requests for tokens, which go over the same connection, need not wait for long."""

_ROUNDS_A_PAGE: Final = 16
_CURSOR: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})-([0-9]{1,2})")


class EventKind(StrEnum):
    """What happened. The scripts write some of these by themselves."""

    GRANTED = "granted"
    DISCARDED = "discarded"
    REFUSED = "refused"
    REVOKED = "revoked"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    LAPSED = "lapsed"
    DEVICE_ADDED = "device_added"
    DEVICE_CHANGED = "device_changed"
    DEVICE_DISABLED = "device_disabled"
    DEVICE_ENABLED = "device_enabled"
    DEVICE_ROTATED = "device_rotated"
    DEVICE_REVOKED = "device_revoked"
    DEVICE_REMOVED = "device_removed"
    CREDENTIAL_REGISTERED = "credential_registered"
    CREDENTIAL_REFRESHED = "credential_refreshed"
    CREDENTIAL_UNREGISTERED = "credential_unregistered"
    CONNECTION_CLOSED = "connection_closed"
    MESSAGE_SENT = "message_sent"
    GROUP_CREATED = "group_created"
    GROUP_DELETED = "group_deleted"
    RETRIED = "retried"
    DROPPED = "dropped"
    JOB_STARTED = "job_started"
    JOB_DONE = "job_done"
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"
    OPERATOR_ADDED = "operator_added"
    OPERATOR_CHANGED = "operator_changed"
    OPERATOR_REMOVED = "operator_removed"
    SIGNED_IN = "signed_in"
    SIGNED_OUT = "signed_out"
    SIGN_IN_REFUSED = "sign_in_refused"
    CALLED = "called"


@dataclass(frozen=True, slots=True)
class Event:
    """What an actor did, as a script writes it down."""

    actor: Actor
    kind: EventKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the trail; what does not apply is empty."""

    at_ms: int
    who: str
    what: str
    client_id: str
    handle: str
    detail: str
    request_id: str = ""


class AuditCursor(NamedTuple):
    """Where a line stands in the order of all streams: by Redis's time, and within it by stream."""

    at_ms: int
    sequence: int
    stream: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a cursor; None if it is none."""
        match = _CURSOR.fullmatch(text)
        return cls(*map(int, match.groups())) if match and int(match[3]) < len(STREAMS) else None

    def __str__(self) -> str:
        return f"{self.at_ms}-{self.sequence}-{self.stream}"

    def older_in(self, stream: int) -> str:
        """Return where to go on reading a stream backwards, as XREVRANGE takes it."""
        return f"{self.at_ms}-{self.sequence}" if stream < self.stream else f"({self.at_ms}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Lines, the newest first, and where to go on; None: there is nothing older. One may be empty and not the last."""

    lines: list[AuditEntry]
    cursor: AuditCursor | None


class AuditStore:
    """The trail as it lies in Redis."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def write(self, lines: Iterable[tuple[str, Event, str]]) -> None:
        """Write lines that no change goes with: (stream, act, client ID), in one round trip. Raises ``Unavailable``.

        Unlike the scripts' lines they are refused when Redis is full: what revokes has room then, what tells has none.
        """
        commands: list[tuple[str | int, ...]] = []
        for stream, act, client_id in lines:
            fields = {
                "who": act.actor.name,
                "what": act.kind,
                "client_id": client_id,
                "handle": "",
                "detail": act.detail,
                "request_id": act.actor.request_id,
            }
            words = (word for field in fields.items() for word in field)
            commands.append(("XADD", stream, "MAXLEN", "~", MOST_LINES, "*", *words))
        await self._redis.pipeline(commands)

    async def page(
        self,
        streams: Sequence[int],
        wanted: Callable[[AuditEntry], bool],
        begin: AuditCursor,
        *,
        since_ms: int,
        limit: int,
    ) -> AuditPage:
        """Return up to ``limit`` wanted lines older than ``begin`` and not older than ``since_ms``, the newest first.

        The work is bounded, not the time back: where little is wanted, a page ends early with a cursor. Raises
        ``Unavailable``.
        """
        found: list[AuditEntry] = []
        for _ in range(_ROUNDS_A_PAGE):
            lines, frontier = await self._round(streams, begin, since_ms)
            for place, line in lines:
                if wanted(line):
                    found.append(line)
                    if len(found) == limit:
                        return AuditPage(found, place)
            if frontier is None:
                return AuditPage(found, None)
            begin = frontier
        return AuditPage(found, begin)

    async def _round(
        self, streams: Sequence[int], begin: AuditCursor, since_ms: int
    ) -> tuple[list[tuple[AuditCursor, AuditEntry]], AuditCursor | None]:
        """Read some of each stream; return, in order, what has nothing unread between it, and where that ends."""
        count = _LINES_A_ROUND // len(streams)
        rows = await self._redis.pipeline(
            [("XREVRANGE", STREAMS[stream], begin.older_in(stream), since_ms, "COUNT", count) for stream in streams]
        )
        lines = [_line(stream, *row) for stream, of_stream in zip(streams, rows, strict=True) for row in of_stream]
        lines.sort(key=lambda line: line[0], reverse=True)
        cut_off = [
            _line(stream, *of_stream[-1])[0]
            for stream, of_stream in zip(streams, rows, strict=True)
            if len(of_stream) == count
        ]
        frontier = max(cut_off, default=None)
        return [each for each in lines if frontier is None or each[0] >= frontier], frontier


def _line(stream: int, entry: str, words: list[str]) -> tuple[AuditCursor, AuditEntry]:
    at_ms, _, sequence = entry.partition("-")
    said = dict(zip(words[::2], words[1::2], strict=True))
    return AuditCursor(int(at_ms), int(sequence), stream), AuditEntry(int(at_ms), **said)
