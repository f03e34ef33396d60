"""The page at ``/``: what answers here, for a person who opens the address in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from app.web.oauth import SERVICES

_PACKAGE: Final = Path(__file__).parent.parent


def set_up_templates(app: web.Application) -> None:
    """Find the templates: beside the package in a checkout, inside it in a wheel. What is filled in is escaped."""
    folders = [_PACKAGE / "templates", _PACKAGE.parent / "templates"]
    aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(folders), autoescape=True)


@aiohttp_jinja2.template("home.html")
async def home(request: web.Request) -> dict[str, Any]:
    """Answer ``GET /``."""
    return {"issuer_url": request.app[SERVICES].issuer_url}
