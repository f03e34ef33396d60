"""``/api/audit``: who did what."""

from __future__ import annotations

from dataclasses import asdict

from app.model.secrets import Secret
from app.service.audit import AuditFilter
from app.web.api import AUDIT_LOG, ApiAnswer, ApiCall, ApiPage, Paging


class AuditQuery(Paging, frozen=True):
    """Which lines; what is left out does not matter. Times are Unix ms, the later end not included."""

    who: str = ""
    what: str = ""
    client_id: str = ""
    handle: str = ""
    since_ms: int = 0
    until_ms: int = 0


class AuditTokenQuery(AuditQuery, frozen=True, kw_only=True):
    """The same about a token in hand: a whole password, or one cloud token of it. It belongs into no URL."""

    token: Secret


class AuditEntryView(ApiAnswer, frozen=True):
    """One line; what does not apply is empty."""

    at_ms: int
    who: str
    what: str
    client_id: str
    handle: str
    detail: str


async def list_lines(call: ApiCall, query: AuditQuery) -> ApiPage[AuditEntryView]:
    """List what was granted, refused, revoked and changed, the newest first."""
    return await _page(call, query, _query(query))


async def search(call: ApiCall, body: AuditTokenQuery) -> ApiPage[AuditEntryView]:
    """List what concerns a token in hand."""
    return await _page(call, body, await call.app[AUDIT_LOG].filter_for_token(_query(body), body.token))


async def _page(call: ApiCall, asked: AuditQuery, query: AuditFilter) -> ApiPage[AuditEntryView]:
    page = await call.app[AUDIT_LOG].search_events(query, cursor=asked.cursor, limit=asked.limit)
    return ApiPage([AuditEntryView(**asdict(line)) for line in page.lines], str(page.cursor) if page.cursor else None)


def _query(asked: AuditQuery) -> AuditFilter:
    return AuditFilter(
        client_id=asked.client_id,
        who=asked.who,
        what=asked.what,
        handle=asked.handle,
        since_ms=asked.since_ms,
        until_ms=asked.until_ms,
    )
