"""The route table: every address in one place."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.model.operators import OperatorRole
from app.web import api_audit, api_devices, api_revocations, api_tokens, health, home, oauth, openapi
from app.web.api import Endpoint
from app.web.console import (
    account,
    api_keys,
    audit,
    device_cloud,
    device_keys,
    devices,
    explorer,
    groups,
    operators,
    overview,
    rendering,
    revocations,
    revoking,
    session,
    tokens,
)
from app.web.console.pages import PageRoute

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
    PageRoute("GET", "/admin/", overview.show, OperatorRole.VIEWER),
    # Tokens.
    PageRoute("GET", "/admin/tokens", tokens.list_tokens, OperatorRole.VIEWER, again=tokens.search_again),
    PageRoute("POST", "/admin/tokens", tokens.search, OperatorRole.VIEWER, again=tokens.search_again),
    PageRoute("GET", "/admin/tokens/{handle}", tokens.show, OperatorRole.VIEWER),
    # Revocations.
    PageRoute("GET", "/admin/revoke", revoking.ask, OperatorRole.OPERATOR),
    PageRoute("POST", "/admin/revoke", revoking.revoke, OperatorRole.OPERATOR, again=revoking.ask_again),
    PageRoute("GET", "/admin/revoked", revoking.revoked, OperatorRole.VIEWER),
    PageRoute("GET", "/admin/revocations", revocations.show, OperatorRole.VIEWER),
    PageRoute("POST", "/admin/tokens/{handle}/retry", revocations.retry, OperatorRole.OPERATOR, again=tokens.show),
    PageRoute("POST", "/admin/tokens/{handle}/drop", revocations.drop, OperatorRole.OPERATOR, again=tokens.show),
    PageRoute("GET", "/admin/jobs/{job}", revocations.show_job, OperatorRole.VIEWER),
    # Devices.
    PageRoute("GET", "/admin/devices", devices.list_devices, OperatorRole.VIEWER),
    PageRoute("POST", "/admin/devices", device_keys.register, OperatorRole.OPERATOR, again=device_keys.new),
    PageRoute("GET", "/admin/devices/new", device_keys.new, OperatorRole.OPERATOR),
    PageRoute("GET", _DEVICE, devices.show, OperatorRole.VIEWER),
    PageRoute("GET", f"{_DEVICE}/edit", devices.edit, OperatorRole.OPERATOR),
    PageRoute("POST", f"{_DEVICE}/edit", devices.update, OperatorRole.OPERATOR, again=devices.edit),
    PageRoute("GET", f"{_DEVICE}/rotate", device_keys.ask_to_rotate, OperatorRole.OPERATOR),
    PageRoute("POST", f"{_DEVICE}/rotate", device_keys.rotate, OperatorRole.OPERATOR, again=device_keys.ask_to_rotate),
    PageRoute("GET", f"{_DEVICE}/disable", devices.ask_to_disable, OperatorRole.OPERATOR),
    PageRoute("POST", f"{_DEVICE}/disable", devices.disable, OperatorRole.OPERATOR, again=devices.ask_to_disable),
    PageRoute("POST", f"{_DEVICE}/enable", devices.enable, OperatorRole.OPERATOR, again=devices.show),
    PageRoute("GET", f"{_DEVICE}/remove", devices.ask_to_remove, OperatorRole.OPERATOR),
    PageRoute("POST", f"{_DEVICE}/remove", devices.remove, OperatorRole.OPERATOR, again=devices.ask_to_remove),
    PageRoute("POST", f"{_DEVICE}/close", device_cloud.close, OperatorRole.OPERATOR, again=devices.show),
    PageRoute("GET", f"{_DEVICE}/message", device_cloud.message, OperatorRole.OPERATOR),
    PageRoute("POST", f"{_DEVICE}/message", device_cloud.send, OperatorRole.OPERATOR, again=device_cloud.message),
    PageRoute("GET", _CREDENTIAL, device_cloud.credential, OperatorRole.VIEWER),
    PageRoute("POST", _CREDENTIAL, device_cloud.look, OperatorRole.VIEWER, again=device_cloud.credential),
    PageRoute(
        "POST", f"{_CREDENTIAL}/register", device_cloud.register, OperatorRole.OPERATOR, again=device_cloud.credential
    ),
    PageRoute(
        "POST", f"{_CREDENTIAL}/refresh", device_cloud.refresh, OperatorRole.OPERATOR, again=device_cloud.credential
    ),
    PageRoute("GET", f"{_CREDENTIAL}/unregister", device_cloud.ask, OperatorRole.OPERATOR),
    PageRoute(
        "POST", f"{_CREDENTIAL}/unregister", device_cloud.unregister, OperatorRole.OPERATOR, again=device_cloud.ask
    ),
    # Groups.
    PageRoute("GET", "/admin/groups", groups.list_groups, OperatorRole.VIEWER),
    PageRoute("POST", "/admin/groups", groups.create, OperatorRole.OPERATOR, again=groups.list_groups),
    PageRoute("GET", "/admin/groups/{group_id}/delete", groups.ask_to_delete, OperatorRole.OPERATOR),
    PageRoute(
        "POST", "/admin/groups/{group_id}/delete", groups.delete, OperatorRole.OPERATOR, again=groups.ask_to_delete
    ),
    # Audit.
    PageRoute("GET", "/admin/audit", audit.show, OperatorRole.VIEWER),
    PageRoute("POST", "/admin/audit", audit.search, OperatorRole.VIEWER, again=audit.show),
    PageRoute("GET", "/admin/audit.csv", audit.export, OperatorRole.VIEWER),
    # Explorer.
    PageRoute("GET", "/admin/explorer", explorer.list_actions, OperatorRole.ADMIN),
    PageRoute("GET", "/admin/explorer/{action}", explorer.show, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/explorer/{action}", explorer.call, OperatorRole.ADMIN, again=explorer.show),
    # Operators, API keys and one's own account.
    PageRoute("GET", "/admin/operators", operators.list_operators, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/operators", operators.add, OperatorRole.ADMIN, again=operators.list_operators),
    PageRoute("GET", "/admin/operators/{name}", operators.show, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/operators/{name}/role", operators.set_role, OperatorRole.ADMIN, again=operators.show),
    PageRoute(
        "POST", "/admin/operators/{name}/password", operators.set_password, OperatorRole.ADMIN, again=operators.show
    ),
    PageRoute(
        "POST", "/admin/operators/{name}/sessions", operators.end_sessions, OperatorRole.ADMIN, again=operators.show
    ),
    PageRoute("GET", "/admin/operators/{name}/remove", operators.ask_to_remove, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/operators/{name}/remove", operators.remove, OperatorRole.ADMIN, again=operators.show),
    PageRoute("GET", "/admin/keys", api_keys.list_keys, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/keys", api_keys.add, OperatorRole.ADMIN, again=api_keys.list_keys),
    PageRoute("GET", "/admin/keys/{name}/remove", api_keys.ask_to_remove, OperatorRole.ADMIN),
    PageRoute("POST", "/admin/keys/{name}/remove", api_keys.remove, OperatorRole.ADMIN, again=api_keys.ask_to_remove),
    PageRoute("GET", "/admin/account", account.show, OperatorRole.VIEWER),
    PageRoute("POST", "/admin/account/password", account.change_password, OperatorRole.VIEWER, again=account.show),
    PageRoute("POST", "/admin/account/sessions", account.end_sessions, OperatorRole.VIEWER, again=account.show),
    # Last, for all else: whoever is signed in is told so on a page of the console.
    PageRoute("GET", "/admin/{rest:.*}", session.nowhere, OperatorRole.VIEWER),
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
