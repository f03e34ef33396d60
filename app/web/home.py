"""The page at ``/``: what answers here, for a person who opens the address in a browser."""

from __future__ import annotations

from aiohttp import web

from app.web.console.rendering import PageContent, render
from app.web.oauth import SERVICES


async def home(request: web.Request) -> web.Response:
    """Answer ``GET /``."""
    return render(request, PageContent.of("home.html", issuer_url=request.app[SERVICES].issuer_url))
