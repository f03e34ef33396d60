"""The audit: events that no script records, and the operators' search."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from app.errors import InvalidRequest, NotFound, Unavailable
from app.model.devices import MAX_CLIENT_ID_CHARS
from app.model.mqtt_password import cloud_tokens_in
from app.model.secrets import Secret
from app.model.text import _
from app.service.refusal_texts import NOT_A_HANDLE, UNKNOWN_TOKEN
from app.store.audit import (
    STREAMS,
    AuditCursor,
    AuditEntry,
    AuditPage,
    AuditStore,
    BulkRevocation,
    EventKind,
    NewEntry,
)
from app.store.cursor import InvalidCursor
from app.store.redis_keys import JOBS_AUDIT, REFUSED_AUDIT, STRANGERS_AUDIT, Handle, Shard
from app.store.retry import retry_until
from app.store.tokens import Tokens

log = structlog.get_logger(__name__)

MAX_ENTRIES: Final = 1000
"""In one page."""

MAX_WHO_CHARS: Final = 128
MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_CLOUD_TOKENS: Final = 3
"""One of each type, R, W and RW: no password holds more."""

_JOBS: Final = STREAMS.index(JOBS_AUDIT)
_REFUSALS: Final = (STREAMS.index(REFUSED_AUDIT), STREAMS.index(STRANGERS_AUDIT))


class EventRecorder:
    """Records events that no script records: in the audit, or in the log where Redis cannot take them."""

    def __init__(self, audit: AuditStore) -> None:
        """Append to ``audit``."""
        self._audit = audit

    async def record(self, *entries: NewEntry, within_s: float = 0.0) -> None:
        """Append the events; try again for ``within_s`` seconds if Redis is away, then log them."""
        try:
            await retry_until(partial(self._audit.append, entries), within_s=within_s)
        except Unavailable as error:
            for entry in entries:
                _log_unrecorded(entry, error)


def outcome_unknown(code: str) -> str:
    """Return what the audit says about a call that the cloud may have carried out; ``code`` is the error's."""
    return f"outcome unknown: the answer was lost ({code})"


def _log_unrecorded(entry: NewEntry, error: Unavailable) -> None:
    """Log an event that Redis could not take; if only its answer was lost, the audit may hold it too."""
    event = entry.event
    log.warning(
        "audit_unrecorded",
        who=event.actor.name,
        what=event.kind,
        client_id=entry.client_id,
        handle=entry.handle,
        detail=event.detail,
        cause=error.cause,
        **({"request_id": event.actor.request_id} if event.actor.request_id else {}),
    )


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What to search for; what is left out does not matter. Times are Unix ms; ``until_ms`` itself is not included."""

    client_id: str = ""
    who: str = ""
    what: str = ""
    handle: str = ""
    since_ms: int = 0
    until_ms: int = 0

    def wants(self, entry: AuditEntry) -> bool:
        """Return whether an entry fits."""
        return all(
            not wanted or wanted == found
            for wanted, found in (
                (self.client_id, entry.client_id),
                (self.who, entry.who),
                (self.what, entry.what),
                (self.handle, entry.handle),
            )
        )


class AuditLog:
    """What operators read of the audit."""

    def __init__(self, audit: AuditStore, tokens: Tokens) -> None:
        """Read entries from ``audit``; ``tokens`` finds the handle of a token."""
        self._audit = audit
        self._tokens = tokens

    async def search_events(self, query: AuditFilter, *, cursor: str = "", limit: int = 100) -> AuditPage:
        """Return the entries that fit, the newest first, from ``cursor`` on.

        A page may be short, or empty, and not the last.

        A bulk revocation is not recorded token by token: a search by handle finds the entry of the step that revoked
        the token, and that job's start and end, for as long as the token's record is kept. Raises ``InvalidRequest``
        for a filter that cannot fit anything or an invalid cursor, and ``Unavailable``.
        """
        _check(query)
        if not 1 <= limit <= MAX_ENTRIES:
            raise InvalidRequest(_("limit must be 1 to %(most)s", most=MAX_ENTRIES))
        begin = AuditCursor(query.until_ms, 0, 0) if query.until_ms else AuditCursor(10**15 - 1, 0, 0)
        if cursor:
            parsed = AuditCursor.parse(cursor)
            if parsed is None:
                raise InvalidCursor
            begin = min(begin, parsed)
        streams, wanted = _streams(query), query.wants
        if query.handle and (found := await self._audit.find_bulk_revocation(query.handle)):
            streams, wanted = [*streams, _JOBS], partial(_wants_of_bulk, query, found)
        return await self._audit.read_page(streams, wanted, begin, since_ms=query.since_ms, limit=limit)

    async def filter_for_token(self, query: AuditFilter, token: Secret) -> AuditFilter:
        """Return the query for what concerns a token. Raises as ``handle_of``, and ``NotFound`` for None."""
        handle = await self.handle_of(token)
        if handle is None:
            raise NotFound(UNKNOWN_TOKEN)
        if query.handle:
            raise InvalidRequest(_("send either the token or its handle, not both"))
        return replace(query, handle=handle)

    async def handle_of(self, token: Secret) -> Handle | None:
        """Return the handle of what an operator entered: a password, one cloud token of it, or a handle.

        None if no record of it is left: one is kept for ten minutes beyond the token's expiry. Raises ``Unavailable``.
        """
        text = token.reveal().strip()
        if not text or len(text) > MAX_TOKEN_CHARS:
            return None
        if Shard.of_handle(text):
            return Handle(text)
        cloud_tokens = cloud_tokens_in(text)
        # Each is looked for under every key, so thousands in one text would hold up all others.
        return await self._tokens.find_handle(cloud_tokens) if 0 < len(cloud_tokens) <= MAX_CLOUD_TOKENS else None


def _check(query: AuditFilter) -> None:
    if query.what and query.what not in set(EventKind):
        raise InvalidRequest(_("what must be one of %(kinds)s", kinds=", ".join(EventKind)))
    if query.handle and Shard.of_handle(query.handle) is None:
        raise InvalidRequest(NOT_A_HANDLE)
    if len(query.client_id) > MAX_CLIENT_ID_CHARS:
        raise InvalidRequest(_("client_id has at most %(most)s characters", most=MAX_CLIENT_ID_CHARS))
    if len(query.who) > MAX_WHO_CHARS:
        raise InvalidRequest(_("who has at most %(most)s characters", most=MAX_WHO_CHARS))
    if not 0 <= query.since_ms < sys.maxsize or not 0 <= query.until_ms < sys.maxsize:
        raise InvalidRequest(_("a time must be in milliseconds since 1970-01-01 UTC"))
    if query.until_ms and query.since_ms >= query.until_ms:
        raise InvalidRequest(_("since must be before until"))


def _wants_of_bulk(query: AuditFilter, revocation: BulkRevocation, entry: AuditEntry) -> bool:
    """Return whether an entry fits, or belongs to the bulk revocation that revoked the token."""
    # An entry of a job names no single device and token.
    return query.wants(entry) or (revocation.includes(entry) and replace(query, handle="", client_id="").wants(entry))


def _streams(query: AuditFilter) -> list[int]:
    """Return the streams that may hold what the query asks for."""
    if query.handle:
        shard = Shard.of_handle(query.handle)
        return [shard.number] if shard else []
    if query.client_id:
        return [Shard.of(query.client_id).number, *_REFUSALS]
    return list(range(len(STREAMS)))
