"""The route table: every address in one place."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.web import api_audit, api_devices, api_revocations, api_tokens, health, home, oauth, openapi
from app.web.api import Endpoint

API: Final = (
    Endpoint("GET", "/api/devices", api_devices.list_devices),
    Endpoint("POST", "/api/devices", api_devices.add),
    Endpoint("GET", "/api/devices/{client_id}", api_devices.show),
    Endpoint("DELETE", "/api/devices/{client_id}", api_devices.remove),
    Endpoint("POST", "/api/devices/{client_id}/disable", api_devices.disable),
    Endpoint("POST", "/api/devices/{client_id}/enable", api_devices.enable),
    Endpoint("POST", "/api/devices/{client_id}/rotate", api_devices.rotate),
    Endpoint("GET", "/api/tokens", api_tokens.list_tokens),
    Endpoint("GET", "/api/tokens/{handle}", api_tokens.show),
    Endpoint("POST", "/api/revocations", api_revocations.revoke),
    Endpoint("GET", "/api/revocations", api_revocations.list_queue),
    Endpoint("POST", "/api/revocations/{handle}/retry", api_revocations.retry),
    Endpoint("POST", "/api/revocations/{handle}/drop", api_revocations.drop),
    Endpoint("GET", "/api/jobs", api_revocations.list_jobs),
    Endpoint("GET", "/api/jobs/{job}", api_revocations.show_job),
    Endpoint("GET", "/api/audit", api_audit.list_lines),
    Endpoint("POST", "/api/audit/search", api_audit.search),
)
"""What programs of operators call, each with an API key that has ``admin``."""


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
            web.get("/openapi.json", openapi.openapi),
            *(web.route(each.method, each.path, each.answer) for each in API),
        ]
    )
    app[openapi.DESCRIPTION] = openapi.describe(API)
