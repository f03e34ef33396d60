"""``/admin/tokens``: who holds what."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from app.errors import NotFound
from app.model.devices import CLIENT_ID_MARK
from app.model.secrets import Secret
from app.model.selections import Selection
from app.service.revocations import select
from app.web.api import Asked
from app.web.console.forms import Filled
from app.web.console.pages import Moved, Visit
from app.web.console.rendering import PREFIX, Shown

PAGE: Final = 50
ADDRESS: Final = f"{PREFIX}/tokens"

Kind = Literal["auto", "client_id", "role", "topic", "token"]
_MAKERS: Final = {"client_id": Selection.of_client_id, "role": Selection.of_role, "topic": Selection.of_topic}


class TokensAsked(Asked, frozen=True):
    """Which tokens: a device's, a role's, those for a topic filter, or all; from ``cursor`` on."""

    client_id: str | None = None
    role: str | None = None
    topic: str | None = None
    cursor: str = ""

    @property
    def narrowed(self) -> dict[str, str]:
        """What is asked for, as a query; empty for all."""
        given = {"client_id": self.client_id, "role": self.role, "topic": self.topic}
        return {name: value for name, value in given.items() if value is not None}


class Search(Asked, frozen=True):
    """One field for all that somebody may have in hand. It travels in a body, for it may be a token."""

    q: Secret = msgspec.field(default_factory=lambda: Secret(""))
    by: Kind = "auto"


async def list_tokens(visit: Visit, query: TokensAsked) -> Shown:
    """List live tokens, the first to expire first; a topic is searched for a second a page."""
    selection = select(**query.narrowed, everything=not query.narrowed)
    page = await visit.revocations.tokens(selection, query.cursor, PAGE)
    next_page = f"{ADDRESS}?{urlencode(query.narrowed | {'cursor': page.next_cursor})}" if page.next_cursor else ""
    return Shown.of(
        "tokens.html", selection=selection, asked=query, records=page.records, next_page=next_page, by="auto"
    )


async def search(visit: Visit, form: Search) -> Moved:
    """Find out what was entered, and go there: a token in hand is looked up here and never gets into an address."""
    text = form.q.reveal().strip()
    if not text:
        return Moved(ADDRESS)
    kind = form.by if form.by != "auto" else _guess(text)
    if kind == "token":
        handle = await visit.trail.handle_of(Secret(text))
        if handle is None:
            raise NotFound("no record of this token is left: it is none of ours, or expired more than 10 minutes ago")
        return Moved(f"{ADDRESS}/{quote(handle)}")
    _MAKERS[kind](text)  # says what is wrong with it
    return Moved(ADDRESS, query={kind: text})


async def search_again(visit: Visit, form: Filled) -> Shown:  # noqa: ARG001 (what was entered may be a token)
    """Show the list of all under the search that could not be."""
    page = await visit.revocations.tokens(select(everything=True), "", PAGE)
    return Shown.of(
        "tokens.html",
        selection=select(everything=True),
        asked=TokensAsked(),
        records=page.records,
        next_page="",
    )


async def show(visit: Visit) -> Shown:
    """Show what is known of a token, whatever became of it."""
    record = await visit.revocations.token(visit.path["handle"])
    return Shown.of("token.html", record=record)


def _guess(text: str) -> Kind:
    if CLIENT_ID_MARK in text:
        return "client_id"
    if "|" in text:
        return "token"
    if any(mark in text for mark in "/#+:"):
        return "topic"
    return "role"
