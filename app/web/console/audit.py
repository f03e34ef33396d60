"""``/admin/audit``: who did what, in the browser and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

import msgspec

from app.errors import InvalidRequest
from app.loop_share import in_slices
from app.model.sanitize import sanitize_for_spreadsheet
from app.model.secrets import Secret
from app.model.text import Text, _
from app.model.times import iso_time
from app.service.audit import MAX_ENTRIES, AuditFilter, AuditLog
from app.store.audit import AuditEntry, AuditPage, EventKind
from app.web.console.results import PREFIX, Download, PageContent, Redirect
from app.web.conversion import FormModel
from app.web.route import AdminRequest

ADDRESS: Final = f"{PREFIX}/audit"
PAGE: Final = 100
MAX_EXPORTED: Final = 100_000
ROWS_AT_ONCE: Final = 100
"""In one part of an export, of about 20 kB."""

_COLUMNS: Final = ("time", "who", "what", "client_id", "handle", "detail")
_MAX_TIME_CHARS: Final = 32


class AuditPageQuery(FormModel, frozen=True):
    """Which entries; what is empty does not matter. Times are as a browser's field has them, in UTC."""

    who: str = ""
    what: str = ""
    client_id: str = ""
    handle: str = ""
    since: str = ""
    until: str = ""
    cursor: str = ""

    @property
    def narrowed(self) -> dict[str, str]:
        """What is asked for, as a query without the cursor."""
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if value and name != "cursor"}

    def as_filter(self) -> AuditFilter:
        """Return the same for the audit log. Raises ``InvalidRequest`` for what is not a valid time."""
        return AuditFilter(
            client_id=self.client_id,
            who=self.who,
            what=self.what,
            handle=self.handle,
            since_ms=_parse_time(self.since, _("From")),
            until_ms=_parse_time(self.until, _("Until")),
        )


class AuditTokenForm(FormModel, frozen=True):
    """A token that an operator entered. It is sent in the body, never in an address."""

    token: Secret = msgspec.field(default_factory=lambda: Secret(""))


async def show_audit(request: AdminRequest, query: AuditPageQuery) -> PageContent:
    """Show entries, the newest first; a filter that is not valid stays as it was filled in."""
    try:
        page = await request.services.audit_log.search_events(query.as_filter(), cursor=query.cursor, limit=PAGE)
    except InvalidRequest as refusal:
        return _audit_content(query, AuditPage([], None), refusal)
    return _audit_content(query, page)


async def search_by_token(request: AdminRequest, form: AuditTokenForm) -> Redirect:
    """Go to what concerns the token that was entered: by its handle, for the token must not be in an address."""
    found = await request.services.audit_log.filter_for_token(AuditFilter(), form.token)
    return Redirect(ADDRESS, query={"handle": found.handle})


async def export_audit(request: AdminRequest, query: AuditPageQuery) -> Download:
    """Send all matching entries, as CSV (RFC 4180). Raises as ``AuditLog.search_events``."""
    wanted = query.as_filter()
    first = await request.services.audit_log.search_events(wanted, limit=MAX_ENTRIES)
    day = datetime.fromtimestamp(request.now_ms / 1000, UTC).strftime("%Y%m%d-%H%M%S")
    return Download(
        _csv_parts(request.services.audit_log, wanted, first), "text/csv; charset=utf-8", f"audit-{day}.csv"
    )


async def _csv_parts(audit_log: AuditLog, wanted: AuditFilter, page: AuditPage) -> AsyncGenerator[bytes, None]:
    """Make the file page by page, so that this process holds one page at a time."""
    # Spreadsheets recognize UTF-8 by this mark alone.
    yield "\ufeff".encode() + _csv([_COLUMNS])
    left = MAX_EXPORTED
    while True:
        for first in range(0, min(len(page.entries), left), ROWS_AT_ONCE):
            yield _csv([_row(entry) async for entry in in_slices(page.entries[:left][first : first + ROWS_AT_ONCE])])
        if len(page.entries) > left:
            yield _csv(
                [("", "", "cut off", "", "", f"after {MAX_EXPORTED} entries: narrow the time, and export again")]
            )
            return
        if page.cursor is None:
            return
        left -= len(page.entries)
        page = await audit_log.search_events(wanted, cursor=str(page.cursor), limit=MAX_ENTRIES)


def _row(entry: AuditEntry) -> tuple[str, ...]:
    texts = (entry.who, entry.what, entry.client_id, entry.handle, entry.detail)
    return (iso_time(entry.at_ms), *map(sanitize_for_spreadsheet, texts))


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    # Half a surrogate pair, which JSON can hold, cannot be written as UTF-8.
    return text.getvalue().encode(errors="replace")


def _audit_content(query: AuditPageQuery, page: AuditPage, problem: InvalidRequest | None = None) -> PageContent:
    older = {**query.narrowed, "cursor": str(page.cursor)} if page.cursor else None
    return PageContent.of(
        "audit.html",
        status=problem.status if problem else 200,
        problem=problem,
        query=query,
        kinds=list(EventKind),
        entries=page.entries,
        older=f"{ADDRESS}?{urlencode(older)}" if older else "",
        seen_to_ms=page.cursor.at_ms if page.cursor else 0,
        full=len(page.entries) == PAGE,
        export=f"{ADDRESS}.csv?{urlencode(query.narrowed)}" if query.narrowed else f"{ADDRESS}.csv",
        most_exported=MAX_EXPORTED,
    )


def _parse_time(text: str, field: Text) -> int:
    """Read what a browser's field for date and time sends (HTML, local date and time), as UTC; 0 for nothing."""
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text[:_MAX_TIME_CHARS])
    except ValueError:
        raise InvalidRequest(
            _("%(field)s: write a time as %(example)s, in UTC", field=field, example="2026-11-24T14:30")
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
