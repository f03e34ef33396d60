"""``/api/audit``: who did what."""

from __future__ import annotations

from typing import Self

from msgspec.structs import asdict

from app.model.secrets import Secret
from app.service.audit import AuditFilter
from app.store.audit import AuditEntry
from app.web.api import ApiAnswer, ApiPage, Paging
from app.web.route import AdminRequest


class AuditQuery(Paging, frozen=True):
    """Which entries; what is left out does not matter. Times are Unix ms, the later end not included."""

    who: str = ""
    what: str = ""
    client_id: str = ""
    handle: str = ""
    since_ms: int = 0
    until_ms: int = 0


class AuditTokenQuery(AuditQuery, frozen=True, kw_only=True):
    """The same about the token that is sent: a whole password, or one cloud token of it. It must not be in a URL."""

    token: Secret


class AuditEntryView(ApiAnswer, frozen=True):
    """An entry of the audit; what does not apply is empty, and ``revoked`` null."""

    id: str
    at_ms: int
    who: str
    what: str
    client_id: str
    handle: str
    detail: str
    request_id: str
    revoked: int | None
    job: str

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Show an entry."""
        return cls(**asdict(entry))


async def list_events(request: AdminRequest, query: AuditQuery) -> ApiPage[AuditEntryView]:
    """List what was granted, refused, revoked and changed, the newest first."""
    return await _page(request, query, _query(query))


async def search_events(request: AdminRequest, body: AuditTokenQuery) -> ApiPage[AuditEntryView]:
    """List what concerns the token that is sent."""
    return await _page(request, body, await request.services.audit_log.filter_for_token(_query(body), body.token))


async def _page(request: AdminRequest, asked: AuditQuery, query: AuditFilter) -> ApiPage[AuditEntryView]:
    page = await request.services.audit_log.search_events(query, cursor=asked.cursor, limit=asked.limit)
    return ApiPage([AuditEntryView.of(entry) for entry in page.entries], str(page.cursor) if page.cursor else None)


def _query(asked: AuditQuery) -> AuditFilter:
    return AuditFilter(
        client_id=asked.client_id,
        who=asked.who,
        what=asked.what,
        handle=asked.handle,
        since_ms=asked.since_ms,
        until_ms=asked.until_ms,
    )
