"""The first page: how things stand."""

from __future__ import annotations

from app.service.revocations import select
from app.web.console.pages import Visit
from app.web.console.rendering import Shown


async def show(visit: Visit) -> Shown:
    """Show how things stand."""
    page = await visit.revocations.tokens(select(everything=True), limit=5)
    return Shown.of("overview.html", records=page.records)
