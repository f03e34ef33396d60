"""The route table: every address in one place."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.model.operators import Role
from app.web import api_audit, api_devices, api_revocations, api_tokens, health, home, oauth, openapi
from app.web.api import Endpoint
from app.web.console import (
    account,
    audit,
    device_cloud,
    device_keys,
    devices,
    explorer,
    groups,
    keys,
    operators,
    overview,
    rendering,
    revocations,
    revoking,
    session,
    tokens,
)
from app.web.console.pages import Page

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

_DEVICE: Final = "/admin/devices/{client_id}"
_CREDENTIAL: Final = f"{_DEVICE}/credential"

CONSOLE: Final = (
    Page("GET", "/admin/", overview.show, Role.VIEWER),
    # Tokens.
    Page("GET", "/admin/tokens", tokens.list_tokens, Role.VIEWER, again=tokens.search_again),
    Page("POST", "/admin/tokens", tokens.search, Role.VIEWER, again=tokens.search_again),
    Page("GET", "/admin/tokens/{handle}", tokens.show, Role.VIEWER),
    # Revocations.
    Page("GET", "/admin/revoke", revoking.ask, Role.OPERATOR),
    Page("POST", "/admin/revoke", revoking.revoke, Role.OPERATOR, again=revoking.ask_again),
    Page("GET", "/admin/revoked", revoking.revoked, Role.VIEWER),
    Page("GET", "/admin/revocations", revocations.show, Role.VIEWER),
    Page("POST", "/admin/tokens/{handle}/retry", revocations.retry, Role.OPERATOR, again=tokens.show),
    Page("POST", "/admin/tokens/{handle}/drop", revocations.drop, Role.OPERATOR, again=tokens.show),
    Page("GET", "/admin/jobs/{job}", revocations.show_job, Role.VIEWER),
    # Devices.
    Page("GET", "/admin/devices", devices.list_devices, Role.VIEWER),
    Page("POST", "/admin/devices", device_keys.register, Role.OPERATOR, again=device_keys.new),
    Page("GET", "/admin/devices/new", device_keys.new, Role.OPERATOR),
    Page("GET", _DEVICE, devices.show, Role.VIEWER),
    Page("GET", f"{_DEVICE}/edit", devices.edit, Role.OPERATOR),
    Page("POST", f"{_DEVICE}/edit", devices.update, Role.OPERATOR, again=devices.edit),
    Page("GET", f"{_DEVICE}/rotate", device_keys.ask_to_rotate, Role.OPERATOR),
    Page("POST", f"{_DEVICE}/rotate", device_keys.rotate, Role.OPERATOR, again=device_keys.ask_to_rotate),
    Page("GET", f"{_DEVICE}/disable", devices.ask_to_disable, Role.OPERATOR),
    Page("POST", f"{_DEVICE}/disable", devices.disable, Role.OPERATOR, again=devices.ask_to_disable),
    Page("POST", f"{_DEVICE}/enable", devices.enable, Role.OPERATOR, again=devices.show),
    Page("GET", f"{_DEVICE}/remove", devices.ask_to_remove, Role.OPERATOR),
    Page("POST", f"{_DEVICE}/remove", devices.remove, Role.OPERATOR, again=devices.ask_to_remove),
    Page("POST", f"{_DEVICE}/close", device_cloud.close, Role.OPERATOR, again=devices.show),
    Page("GET", f"{_DEVICE}/message", device_cloud.message, Role.OPERATOR),
    Page("POST", f"{_DEVICE}/message", device_cloud.send, Role.OPERATOR, again=device_cloud.message),
    Page("GET", _CREDENTIAL, device_cloud.credential, Role.VIEWER),
    Page("POST", _CREDENTIAL, device_cloud.look, Role.VIEWER, again=device_cloud.credential),
    Page("POST", f"{_CREDENTIAL}/register", device_cloud.register, Role.OPERATOR, again=device_cloud.credential),
    Page("POST", f"{_CREDENTIAL}/refresh", device_cloud.refresh, Role.OPERATOR, again=device_cloud.credential),
    Page("GET", f"{_CREDENTIAL}/unregister", device_cloud.ask, Role.OPERATOR),
    Page("POST", f"{_CREDENTIAL}/unregister", device_cloud.unregister, Role.OPERATOR, again=device_cloud.ask),
    # Groups.
    Page("GET", "/admin/groups", groups.list_groups, Role.VIEWER),
    Page("POST", "/admin/groups", groups.create, Role.OPERATOR, again=groups.list_groups),
    Page("GET", "/admin/groups/{group_id}/delete", groups.ask_to_delete, Role.OPERATOR),
    Page("POST", "/admin/groups/{group_id}/delete", groups.delete, Role.OPERATOR, again=groups.ask_to_delete),
    # Audit.
    Page("GET", "/admin/audit", audit.show, Role.VIEWER),
    Page("POST", "/admin/audit", audit.search, Role.VIEWER, again=audit.show),
    Page("GET", "/admin/audit.csv", audit.export, Role.VIEWER),
    # Explorer.
    Page("GET", "/admin/explorer", explorer.list_actions, Role.ADMIN),
    Page("GET", "/admin/explorer/{action}", explorer.show, Role.ADMIN),
    Page("POST", "/admin/explorer/{action}", explorer.call, Role.ADMIN, again=explorer.show),
    # Operators, API keys and one's own account.
    Page("GET", "/admin/operators", operators.list_operators, Role.ADMIN),
    Page("POST", "/admin/operators", operators.add, Role.ADMIN, again=operators.list_operators),
    Page("GET", "/admin/operators/{name}", operators.show, Role.ADMIN),
    Page("POST", "/admin/operators/{name}/role", operators.set_role, Role.ADMIN, again=operators.show),
    Page("POST", "/admin/operators/{name}/password", operators.set_password, Role.ADMIN, again=operators.show),
    Page("POST", "/admin/operators/{name}/sessions", operators.end_sessions, Role.ADMIN, again=operators.show),
    Page("GET", "/admin/operators/{name}/remove", operators.ask_to_remove, Role.ADMIN),
    Page("POST", "/admin/operators/{name}/remove", operators.remove, Role.ADMIN, again=operators.show),
    Page("GET", "/admin/keys", keys.list_keys, Role.ADMIN),
    Page("POST", "/admin/keys", keys.add, Role.ADMIN, again=keys.list_keys),
    Page("GET", "/admin/keys/{name}/remove", keys.ask_to_remove, Role.ADMIN),
    Page("POST", "/admin/keys/{name}/remove", keys.remove, Role.ADMIN, again=keys.ask_to_remove),
    Page("GET", "/admin/account", account.show, Role.VIEWER),
    Page("POST", "/admin/account/password", account.change_password, Role.VIEWER, again=account.show),
    Page("POST", "/admin/account/sessions", account.end_sessions, Role.VIEWER, again=account.show),
    # Last, for all else: whoever is signed in is told so on a page of the console.
    Page("GET", "/admin/{rest:.*}", session.nowhere, Role.VIEWER),
)
"""The pages of operators, each with the least role that may open it, or send its form."""


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
            web.get("/admin", session.to_overview),
            web.get("/admin/static/{name}", rendering.static),
            web.get("/admin/sign-in", session.ask),
            web.post("/admin/sign-in", session.sign_in),
            web.post("/admin/sign-out", session.sign_out),
            web.post("/admin/language", session.choose_language),
            *(web.route(each.method, each.path, each.answer) for each in CONSOLE),
        ]
    )
    app[openapi.DESCRIPTION] = openapi.describe(API)
