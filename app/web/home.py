"""The page at ``/``: it says what this server is, to a person who opens its address in a browser."""

from __future__ import annotations

from aiohttp import web

from app.web.console.rendering import render_page
from app.web.console.results import PageContent
from app.web.route import SERVICES


async def show_home(request: web.Request) -> web.Response:
    """Answer ``GET /``."""
    return await render_page(request, PageContent.of("home.html", issuer_url=request.app[SERVICES].settings.issuer_url))
