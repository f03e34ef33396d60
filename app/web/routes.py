"""The route table: every address in one place."""

from __future__ import annotations

from aiohttp import web

from app.web import health, home, oauth


def add_routes(app: web.Application) -> None:
    """Add every address to ``app``."""
    app.add_routes(
        [
            web.get("/", home.home),
            web.get("/healthz", health.healthz),
            web.get("/readyz", health.readyz),
            web.get("/.well-known/oauth-authorization-server", oauth.metadata),
            web.post("/oauth/token", oauth.token),
            web.post("/oauth/introspect", oauth.introspect),
            web.post("/oauth/revoke", oauth.revoke),
        ]
    )
