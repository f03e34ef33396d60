"""The audit trail: told in the log, and searched by operators."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Final

import structlog

from app.errors import InvalidRequest, NotFound
from app.model.devices import MAX_CLIENT_ID_CHARS
from app.model.mqtt_password import cloud_tokens_in
from app.model.secrets import Secret
from app.store.audit import STREAMS, AuditCursor, AuditEntry, AuditPage, AuditStore, Event, EventKind
from app.store.redis_keys import REFUSED_AUDIT, STRANGERS_AUDIT, Handle, Shard
from app.store.tokens import Tokens

log = structlog.get_logger(__name__)

MAX_LINES: Final = 1000
MAX_WHO_CHARS: Final = 128
MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_CLOUD_TOKENS: Final = 3
"""One of each type, R, W and RW: no password holds more."""

_REFUSALS: Final = (STREAMS.index(REFUSED_AUDIT), STREAMS.index(STRANGERS_AUDIT))


def log_event(act: Event, *, client_id: str = "", **more: object) -> None:
    """Log an act: one line for each that changes something, beside its line in the trail."""
    log.info("audit", who=act.actor.name, what=act.kind, client_id=client_id, detail=act.detail, **more)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What to look for; what is left out does not matter. Times are Unix ms, the later end not included."""

    client_id: str = ""
    who: str = ""
    what: str = ""
    handle: str = ""
    since_ms: int = 0
    until_ms: int = 0

    def wants(self, line: AuditEntry) -> bool:
        """Tell whether a line fits."""
        return all(
            not asked or asked == said
            for asked, said in (
                (self.client_id, line.client_id),
                (self.who, line.who),
                (self.what, line.what),
                (self.handle, line.handle),
            )
        )


class AuditLog:
    """What an operator may read of it."""

    def __init__(self, audit: AuditStore, tokens: Tokens) -> None:
        """Lines are in ``audit``; ``tokens`` finds the handle of a token in hand."""
        self._audit = audit
        self._tokens = tokens

    async def search_events(self, query: AuditFilter, *, cursor: str = "", limit: int = 100) -> AuditPage:
        """Return what fits, the newest first, from ``cursor`` on. A page may be short, or empty, and not the last.

        Raises ``InvalidRequest`` for a filter that can fit nothing or a cursor that is none, and ``Unavailable``.
        """
        _check(query)
        if not 1 <= limit <= MAX_LINES:
            raise InvalidRequest(f"limit must be 1 to {MAX_LINES}")
        begin = AuditCursor(query.until_ms, 0, 0) if query.until_ms else AuditCursor(10**15 - 1, 0, 0)
        if cursor:
            parsed = AuditCursor.parse(cursor)
            if parsed is None:
                raise InvalidRequest("the cursor is none that was given here")
            begin = min(begin, parsed)
        return await self._audit.page(_streams(query), query.wants, begin, since_ms=query.since_ms, limit=limit)

    async def filter_for_token(self, query: AuditFilter, token: Secret) -> AuditFilter:
        """Return the query for what concerns a token in hand. Raises as ``handle_of``, and ``NotFound`` for None."""
        handle = await self.handle_of(token)
        if handle is None:
            raise NotFound("no record of this token is left: it is none of ours, or expired more than 10 minutes ago")
        if query.handle:
            raise InvalidRequest("name the token by its handle or by itself, not by both")
        return replace(query, handle=handle)

    async def handle_of(self, token: Secret) -> Handle | None:
        """Return the handle of a token in hand: a password, one cloud token of it, or a handle.

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
        raise InvalidRequest(f"what must be one of {', '.join(EventKind)}")
    if query.handle and Shard.of_handle(query.handle) is None:
        raise InvalidRequest("this is no handle")
    if len(query.client_id) > MAX_CLIENT_ID_CHARS or len(query.who) > MAX_WHO_CHARS:
        raise InvalidRequest("no client ID and no name is that long")
    if not 0 <= query.since_ms < sys.maxsize or not 0 <= query.until_ms < sys.maxsize:
        raise InvalidRequest("a time must be ms since 1970")
    if query.until_ms and query.since_ms >= query.until_ms:
        raise InvalidRequest("since must lie before until")


def _streams(query: AuditFilter) -> list[int]:
    """Return the streams in which the query can find anything."""
    if query.handle:
        shard = Shard.of_handle(query.handle)
        return [shard.number] if shard else []
    if query.client_id:
        return [Shard.of(query.client_id).number, *_REFUSALS]
    return list(range(len(STREAMS)))
