"""``/admin/tokens``: live tokens and their holders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from app.errors import InvalidRequest, NotFound
from app.model.secrets import Secret
from app.model.selections import Selection, SelectionKind
from app.model.text import _
from app.service.audit import AuditFilter
from app.service.refusal_texts import UNKNOWN_TOKEN
from app.service.revocations import select
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.console.token_search import SearchKind, TokenSearch, other_meanings
from app.web.console.token_states import is_pending
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

PAGE: Final = 50
LAST_ENTRIES: Final = 20
ADDRESS: Final = f"{PREFIX}/tokens"


class TokensPageQuery(FormModel, frozen=True):
    """Which tokens: a device's, a role's, those for a topic filter, or all; from ``cursor`` on."""

    client_id: str | None = None
    role: str | None = None
    topic: str | None = None
    cursor: str = ""

    def selection(self) -> Selection:
        """Return the tokens that are meant. Raises ``InvalidRequest``."""
        narrowed = self.client_id is not None or self.role is not None or self.topic is not None
        return select(client_id=self.client_id, role=self.role, topic=self.topic, everything=not narrowed)


class TokenSearchForm(FormModel, frozen=True):
    """One field for all that an operator may search by. It travels in a body, for it may be a token."""

    q: Secret = msgspec.field(default_factory=lambda: Secret(""))
    by: SearchKind = "auto"


@dataclass(frozen=True, slots=True)
class OtherMeaning:
    """Something else that the same text could mean, and its address."""

    selection: Selection
    address: str


async def show_tokens(request: AdminRequest, query: TokensPageQuery) -> PageContent:
    """List live tokens, the first to expire first; a topic is searched for a second a page."""
    revocations, selection = request.services.revocations, query.selection()
    page = await revocations.list_tokens(selection, query.cursor, PAGE)
    counted = selection.kind in {SelectionKind.ROLE, SelectionKind.EVERYTHING}
    searching = selection.kind is SelectionKind.TOPIC and page.next_cursor
    return PageContent.of(
        "tokens.html",
        by="auto",
        selection=selection,
        others=[OtherMeaning(other, _address_of(other)) for other in other_meanings(selection)],
        records=page.records,
        first=not query.cursor,
        count=await revocations.count_tokens(selection) if counted else None,
        searched=await revocations.search_progress(page.next_cursor) if searching else None,
        next_page=_address_of(selection, page.next_cursor) if page.next_cursor else "",
        revoke_all=f"{PREFIX}/revoke?{urlencode(query_of(selection) or {'all': 1})}",
    )


async def search_tokens(request: AdminRequest, form: TokenSearchForm) -> Redirect:
    """Find out what was entered, and go there: a token is looked up here and never gets into an address."""
    search = TokenSearch(form.q.reveal().strip(), form.by)
    if search.is_for_all:
        return Redirect(ADDRESS)
    if search.may_be_token:
        handle = await request.services.audit_log.handle_of(Secret(search.text))
        if handle is not None:
            return Redirect(f"{ADDRESS}/{quote(handle)}")
    if search.must_be_token:
        raise NotFound(UNKNOWN_TOKEN)
    if search.looks_like_token:
        # Every other refusal quotes what was entered.
        raise InvalidRequest(
            _("this may be a token, and is too long for a client ID, role or topic filter: search for it as a token")
        )
    return Redirect(ADDRESS, query=query_of(search.selection()))


async def show_token_search(_request: AdminRequest, form: FormValues) -> PageContent:
    """Show the search that was refused; what was entered may be a token, and is not shown again."""
    return PageContent.of("tokens.html", selection=None, by=form.get("by", "auto"))


async def show_token(request: AdminRequest) -> PageContent:
    """Show what is known of a token, live or revoked."""
    record = await request.services.revocations.get_token(request.path["handle"])
    page = await request.services.audit_log.search_events(AuditFilter(handle=record.handle), limit=LAST_ENTRIES)
    return PageContent.of("token.html", record=record, entries=page.entries, pending=is_pending(record, request.now_ms))


def query_of(selection: Selection) -> dict[str, str]:
    """Return a selection as the parameters of an address; none for everything."""
    return {selection.kind.value: selection.value} if selection.value else {}


def _address_of(selection: Selection, cursor: str = "") -> str:
    return f"{ADDRESS}?{urlencode(query_of(selection) | ({'cursor': cursor} if cursor else {}))}"
