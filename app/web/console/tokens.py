"""``/admin/tokens``: who holds what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from app.errors import InvalidRequest, NotFound
from app.model.devices import CLIENT_ID_MARK, MAX_CLIENT_ID_CHARS
from app.model.grants import PUBLISH, SUBSCRIBE
from app.model.mqtt_password import begins_like_password
from app.model.secrets import Secret
from app.model.selections import MalformedSelection, Selection, SelectionKind
from app.service.audit import AuditFilter
from app.service.revocations import select
from app.store.records import TokenRecord
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

PAGE: Final = 50
LINES: Final = 20
ADDRESS: Final = f"{PREFIX}/tokens"

By = Literal["auto", "client_id", "role", "topic", "pub", "sub", "token"]
"""What the one field holds: a guess, or what somebody says it is."""

MAX_NAME_CHARS: Final = MAX_CLIENT_ID_CHARS + len("pub:")
"""Client IDs, roles and topic filters all end at 64 characters; a token is longer."""


class TokensPageQuery(FormModel, frozen=True):
    """Which tokens: a device's, a role's, those for a topic filter, or all; from ``cursor`` on."""

    client_id: str | None = None
    role: str | None = None
    topic: str | None = None
    cursor: str = ""


class TokenSearchForm(FormModel, frozen=True):
    """One field for all that somebody may have in hand. It travels in a body, for it may be a token."""

    q: Secret = msgspec.field(default_factory=lambda: Secret(""))
    by: By = "auto"


@dataclass(frozen=True, slots=True)
class Other:
    """Something else that the same text could mean, and its address."""

    selection: Selection
    address: str


async def show_tokens(request: AdminRequest, query: TokensPageQuery) -> PageContent:
    """List live tokens, the first to expire first; a topic is searched for a second a page."""
    narrowed = query.client_id is not None or query.role is not None or query.topic is not None
    selection = select(client_id=query.client_id, role=query.role, topic=query.topic, everything=not narrowed)
    page = await request.services.revocations.list_tokens(selection, query.cursor, PAGE)
    counted = selection.kind in {SelectionKind.ROLE, SelectionKind.EVERYTHING}
    searching = selection.kind is SelectionKind.TOPIC and page.next_cursor
    next_query = {**query_of(selection), "cursor": page.next_cursor}
    return PageContent.of(
        "tokens.html",
        by="auto",
        selection=selection,
        others=_others(selection),
        records=page.records,
        first=not query.cursor,
        count=await request.services.revocations.count_tokens(selection) if counted else None,
        searched=await request.services.revocations.how_far(page.next_cursor) if searching else None,
        next_page=f"{ADDRESS}?{urlencode(next_query)}" if page.next_cursor else "",
        revoke_all=f"{PREFIX}/revoke?{urlencode(query_of(selection) or {'all': 1})}",
    )


async def search_tokens(request: AdminRequest, form: TokenSearchForm) -> Redirect:
    """Find out what was entered, and go there: a token in hand is looked up here and never gets into an address."""
    text = form.q.reveal().strip()
    if text in {"", "#"}:
        return Redirect(ADDRESS)
    is_token = len(text) > MAX_NAME_CHARS or begins_like_password(text)
    if form.by in {"auto", "token"} and (CLIENT_ID_MARK not in text or is_token):
        handle = await request.services.audit_log.handle_of(Secret(text))
        if handle is not None:
            return Redirect(f"{ADDRESS}/{quote(handle)}")
    if form.by == "token" or (form.by == "auto" and is_token):
        raise NotFound("no record of this token is left: it is none of ours, or expired more than 10 minutes ago")
    if is_token:
        # Whatever else is refused quotes what was entered.
        raise InvalidRequest("this may be a token, and is no client ID, role or topic filter: search for it as a token")
    return Redirect(ADDRESS, query=query_of(_read(text, _guess(text) if form.by == "auto" else form.by)))


async def show_token_search(_: AdminRequest, form: FormValues) -> PageContent:
    """Show the search that could not be; what was entered may be a token, and is not shown again."""
    return PageContent.of("tokens.html", selection=None, by=form.get("by", "auto"))


async def show_token(request: AdminRequest) -> PageContent:
    """Show what is known of a token, whatever became of it."""
    record = await request.services.revocations.get_token(request.path["handle"])
    lines = (await request.services.audit_log.search_events(AuditFilter(handle=record.handle), limit=LINES)).entries
    return PageContent.of("token.html", record=record, lines=lines, pending=is_pending(record, request.now_ms))


def is_pending(record: TokenRecord, now_ms: int) -> bool:
    """Tell whether the cloud has still to be told that a token is revoked: until then the broker accepts it."""
    return record.state == "revoked" and record.revocation in {"", "queued"} and record.expires_at_ms > now_ms


def query_of(selection: Selection) -> dict[str, str]:
    """Return a selection as the parameters of an address; none for everything."""
    return {selection.kind.value: selection.value} if selection.value else {}


def _read(text: str, by: By) -> Selection:
    match by:
        case "client_id":
            return select(client_id=text)
        case "role":
            return select(role=text)
        case "topic":
            return select(topic=text)
        case _:
            return select(topic=text if text.startswith(f"{by}:") else f"{by}:{text}")


def _guess(text: str) -> By:
    if CLIENT_ID_MARK in text:
        return "client_id"
    return "topic" if any(mark in text for mark in "/#+:") else "role"


def _others(selection: Selection) -> list[Other]:
    """Return what else the text could mean: whoever entered it may have meant that."""
    if selection.kind is SelectionKind.EVERYTHING:
        return []
    text = selection.topic[1] if selection.kind is SelectionKind.TOPIC else selection.value
    others = []
    for make, value in (
        (Selection.of_client_id, text),
        (Selection.of_role, text),
        (Selection.of_topic, f"{PUBLISH}:{text}"),
        (Selection.of_topic, f"{SUBSCRIBE}:{text}"),
        (Selection.of_topic, text),
    ):
        try:
            other = make(value)
        except MalformedSelection:
            continue
        if other != selection:
            others.append(Other(other, f"{ADDRESS}?{urlencode(query_of(other))}"))
    return others
