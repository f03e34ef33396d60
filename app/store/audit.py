"""The audit: who did what, to which device or token, in streams of bounded length.

A script that changes something appends the entry in the same step (``audit`` in ``_shared.lua``), so a change without
its entry cannot exist. The log is made from the streams (``audit_shipping``). An entry's ID is its time by Redis's
clock. No entry holds a token, a secret or an assertion: a token is named by its handle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Self

import msgspec

from app.loop_share import in_slices
from app.model.actors import Actor
from app.store.constants import AUDIT_MAX_ENTRIES
from app.store.merging import READ_AT_ONCE, MergedLists, NextPart, ReadPart
from app.store.redis_keys import ALL_SHARDS, JOBS_AUDIT, OPERATORS_AUDIT, REFUSED_AUDIT, STRANGERS_AUDIT, Shard
from app.store.store import Store

STREAMS: Final = (
    *(shard.audit for shard in ALL_SHARDS),
    JOBS_AUDIT,
    OPERATORS_AUDIT,
    REFUSED_AUDIT,
    STRANGERS_AUDIT,
)
_ENTRIES_A_PAGE: Final = 8_000
"""That a page looks at. Where few of them are wanted, it ends early."""

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
    BREAKER_OPENED = "breaker_opened"
    BREAKER_CLOSED = "breaker_closed"


_TEXT_FIELDS: Final = ("who", "what", "client_id", "handle", "detail", "request_id", "job")
_OF_A_JOB: Final = (EventKind.JOB_STARTED, EventKind.JOB_DONE)


@dataclass(frozen=True, slots=True)
class Event:
    """What an actor did."""

    actor: Actor
    kind: EventKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An event that no script records, for the stream of this name; what does not apply is empty."""

    stream: str
    event: Event
    client_id: str = ""
    handle: str = ""


class AuditEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of the audit; what does not apply is empty.

    ``id`` is unique over all streams. ``revoked`` is how many tokens and applications a change revoked, and ``job`` the
    bulk revocation that it belongs to. An export makes a hundred thousand of them: garbage collection, for which token
    requests wait, does not look at them.
    """

    at_ms: int
    who: str
    what: str
    client_id: str
    handle: str
    detail: str
    id: str = ""
    request_id: str = ""
    revoked: int | None = None
    job: str = ""


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """The bulk revocation that revoked a token: its job, and the entry of the step that took this token."""

    job: str
    entry_id: str

    def includes(self, entry: AuditEntry) -> bool:
        """Return whether an entry is that step's, or the job's start or end."""
        return entry.job == self.job and (entry.id == self.entry_id or entry.what in _OF_A_JOB)


class AuditCursor(NamedTuple):
    """An entry's place in the order of all streams: by Redis's time, then by stream."""

    at_ms: int
    sequence: int
    stream: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a cursor; None if the text is not one."""
        match = _CURSOR.fullmatch(text)
        return cls(*map(int, match.groups())) if match and int(match[3]) < len(STREAMS) else None

    def __str__(self) -> str:
        return f"{self.at_ms}-{self.sequence}-{self.stream}"

    def older_in(self, stream: int) -> str:
        """Return where to go on reading a stream backwards, as XREVRANGE takes it."""
        return f"{self.at_ms}-{self.sequence}" if stream < self.stream else f"({self.at_ms}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the newest first, and the cursor of the next page; None: there is nothing older.

    A page may be empty and not the last.
    """

    entries: list[AuditEntry]
    cursor: AuditCursor | None


class AuditStore:
    """The audit streams."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background
        self._searches = store.searches

    async def append(self, entries: Iterable[NewEntry]) -> None:
        """Append events that no script records, in one round trip. Raises ``Unavailable``.

        Unlike an entry of a script they are refused when Redis is full: revoking must work then, reporting need not.
        """
        commands: list[tuple[str | int, ...]] = []
        for entry in entries:
            event = entry.event
            fields = {
                "who": event.actor.name,
                "what": event.kind,
                "client_id": entry.client_id,
                "handle": entry.handle,
                "detail": event.detail,
                "request_id": event.actor.request_id,
            }
            words = (word for field in fields.items() for word in field)
            commands.append(("XADD", entry.stream, "MAXLEN", "~", AUDIT_MAX_ENTRIES, "*", *words))
        await self._redis.pipeline(commands)

    async def find_bulk_revocation(self, handle: str) -> BulkRevocation | None:
        """Return the bulk revocation that revoked a token whose record is kept, or None. Raises ``Unavailable``."""
        shard = Shard.of_handle(handle)
        if shard is None:
            return None
        job, entry_id = await self._searches.command("HMGET", shard.token(handle), "job", "revoked_in")
        return BulkRevocation(job, f"{entry_id}-{shard.number}") if job and entry_id else None

    async def read_page(
        self,
        streams: Sequence[int],
        wanted: Callable[[AuditEntry], bool],
        begin: AuditCursor,
        *,
        since_ms: int,
        limit: int,
    ) -> AuditPage:
        """Return up to ``limit`` wanted entries older than ``begin`` and not older than ``since_ms``, the newest first.

        The work is bounded, not the time back: where few entries are wanted, a page ends early with a cursor. Raises
        ``Unavailable``.
        """
        merged, found = self._entries_before(begin, streams, since_ms), list[AuditEntry]()
        for _ in range(_ENTRIES_A_PAGE // READ_AT_ONCE):
            entries = await merged.take(READ_AT_ONCE)
            async for entry in in_slices(entries):
                if wanted(entry):
                    found.append(entry)
                if len(found) == limit:
                    return AuditPage(found, _place(entry))
            if len(entries) < READ_AT_ONCE:
                return AuditPage(found, None)
        return AuditPage(found, _place(entries[-1]))

    def _entries_before(
        self, begin: AuditCursor, streams: Sequence[int], since_ms: int
    ) -> MergedLists[int, AuditEntry]:
        """Return the entries of these streams in one order, the newest first, to be read. Raises ``Unavailable``."""

        async def read(parts: Sequence[NextPart[int, AuditEntry]]) -> list[ReadPart[AuditEntry]]:
            rows = await self._searches.pipeline(
                [
                    (
                        "XREVRANGE",
                        STREAMS[part.key],
                        (_place(part.after) if part.after else begin).older_in(part.key),
                        since_ms,
                        "COUNT",
                        part.count,
                    )
                    for part in parts
                ]
            )
            return [
                ReadPart(
                    [entry async for entry in in_slices(parse_entry(part.key, *row) for row in of_stream)],
                    is_last=len(of_stream) < part.count,
                )
                for part, of_stream in zip(parts, rows, strict=True)
            ]

        return MergedLists(streams, read, order=lambda entry: _newest_first(_place(entry)))


def parse_entry(stream: int, entry_id: str, words: list[str]) -> AuditEntry:
    """Read an entry as Redis returns it. Fields of a later version are left out: an upgrade is not made all at once."""
    at_ms, _, sequence = entry_id.partition("-")
    fields = dict(zip(words[::2], words[1::2], strict=True))
    revoked = fields.get("revoked")
    return AuditEntry(
        at_ms=int(at_ms),
        id=str(AuditCursor(int(at_ms), int(sequence), stream)),
        revoked=None if revoked is None else int(revoked),
        **{name: fields.get(name, "") for name in _TEXT_FIELDS},
    )


def _place(entry: AuditEntry) -> AuditCursor:
    return AuditCursor(*map(int, entry.id.split("-")))


def _newest_first(place: AuditCursor) -> tuple[int, ...]:
    return tuple(-part for part in place)
