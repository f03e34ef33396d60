"""``/api/tokens``: what is live, and what became of a token."""

from __future__ import annotations

from typing import Self

from app.service.revocations import select
from app.store.records import TokenRecord, TokenState
from app.web.api import ApiAnswer, ApiPage, Paging
from app.web.route import AdminRequest


class TokenView(ApiAnswer, frozen=True):
    """A token by its handle. ``revocation`` is how far the cloud is: empty, queued, confirmed, failed and so on."""

    handle: str
    client_id: str
    role: str
    scope: str
    state: TokenState
    issued_at_ms: int
    expires_at_ms: int
    revocation: str

    @classmethod
    def of(cls, record: TokenRecord) -> Self:
        """Show a record."""
        return cls(
            handle=record.handle,
            client_id=record.client_id,
            role=record.role,
            scope=record.scope,
            state=record.state,
            issued_at_ms=record.issued_at_ms,
            expires_at_ms=record.expires_at_ms,
            revocation=record.revocation,
        )


class TokensQuery(Paging, frozen=True):
    """Which tokens: a device's, a role's, those for a topic filter (``pub:F``, ``sub:F`` or ``F``), or all."""

    client_id: str | None = None
    role: str | None = None
    topic: str | None = None


async def list_tokens(request: AdminRequest, query: TokensQuery) -> ApiPage[TokenView]:
    """List live tokens, the first to expire first. A topic is searched for a second a page."""
    narrowed = any(each is not None for each in (query.client_id, query.role, query.topic))
    selection = select(client_id=query.client_id, role=query.role, topic=query.topic, everything=not narrowed)
    page = await request.services.revocations.list_tokens(selection, query.cursor, query.limit)
    return ApiPage([TokenView.of(record) for record in page.records], page.next_cursor or None)


async def show_token(request: AdminRequest) -> TokenView:
    """Show what is known of a token."""
    return TokenView.of(await request.services.revocations.get_token(request.path["handle"]))
