"""The route table: every address in one place, each a row with who may use it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.errors import Refusal
from app.web import api_audit, api_devices, api_revocations, api_tokens, health, home, oauth
from app.web.api import API_ADMIN
from app.web.caller_limits import CALLER_LIMITS, CallerLimits
from app.web.client_address import CLIENT_ADDRESSES, ClientAddresses
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
from app.web.console.access import ADMIN, OPERATOR, VIEWER, VISITOR
from app.web.middleware import TOKEN_PATH, render_json
from app.web.oauth import OAUTH
from app.web.openapi import OpenApi
from app.web.route import OPEN, SERVICES, Route

API: Final = (
    Route("GET /api/devices", api_devices.list_devices, API_ADMIN),
    Route("POST /api/devices", api_devices.add_device, API_ADMIN),
    Route("GET /api/devices/{client_id}", api_devices.show_device, API_ADMIN),
    Route("DELETE /api/devices/{client_id}", api_devices.remove_device, API_ADMIN),
    Route("POST /api/devices/{client_id}/disable", api_devices.disable_device, API_ADMIN),
    Route("POST /api/devices/{client_id}/enable", api_devices.enable_device, API_ADMIN),
    Route("POST /api/devices/{client_id}/rotate", api_devices.rotate_key, API_ADMIN),
    Route("GET /api/tokens", api_tokens.list_tokens, API_ADMIN),
    Route("GET /api/tokens/{handle}", api_tokens.show_token, API_ADMIN),
    Route("POST /api/revocations", api_revocations.revoke_tokens, API_ADMIN),
    Route("GET /api/revocations", api_revocations.list_revocations, API_ADMIN),
    Route("POST /api/revocations/{handle}/retry", api_revocations.retry_revocation, API_ADMIN),
    Route("POST /api/revocations/{handle}/drop", api_revocations.drop_revocation, API_ADMIN),
    Route("GET /api/jobs", api_revocations.list_jobs, API_ADMIN),
    Route("GET /api/jobs/{job}", api_revocations.show_job, API_ADMIN),
    Route("GET /api/audit", api_audit.list_events, API_ADMIN),
    Route("POST /api/audit/search", api_audit.search_events, API_ADMIN),
)
"""What programs of operators call, each with an API key that has ``admin``."""

_DEVICE: Final = "/admin/devices/{client_id}"
_CREDENTIAL: Final = f"{_DEVICE}/credential"

CONSOLE: Final = (
    Route("GET /admin/", overview.show_overview, VIEWER),
    # Tokens.
    Route("GET /admin/tokens", tokens.show_tokens, VIEWER, on_refused=tokens.show_token_search),
    Route("POST /admin/tokens", tokens.search_tokens, VIEWER, on_refused=tokens.show_token_search),
    Route("GET /admin/tokens/{handle}", tokens.show_token, VIEWER),
    # Revocations.
    Route("GET /admin/revoke", revoking.ask_to_revoke, OPERATOR),
    Route("POST /admin/revoke", revoking.revoke_selection, OPERATOR, on_refused=revoking.ask_to_revoke_again),
    Route("GET /admin/revoked", revoking.show_revoked, VIEWER),
    Route("GET /admin/revocations", revocations.show_revocations, VIEWER),
    Route("POST /admin/tokens/{handle}/retry", revocations.retry_revocation, OPERATOR, on_refused=tokens.show_token),
    Route("POST /admin/tokens/{handle}/drop", revocations.drop_revocation, OPERATOR, on_refused=tokens.show_token),
    Route("GET /admin/jobs/{job}", revocations.show_job, VIEWER),
    # Devices.
    Route("GET /admin/devices", devices.show_devices, VIEWER),
    Route("POST /admin/devices", device_keys.register_device, OPERATOR, on_refused=device_keys.show_new_device),
    Route("GET /admin/devices/new", device_keys.show_new_device, OPERATOR),
    Route(f"GET {_DEVICE}", devices.show_device, VIEWER),
    Route(f"GET {_DEVICE}/edit", devices.show_device_form, OPERATOR),
    Route(f"POST {_DEVICE}/edit", devices.update_device, OPERATOR, on_refused=devices.show_device_form),
    Route(f"GET {_DEVICE}/rotate", device_keys.ask_to_rotate_key, OPERATOR),
    Route(f"POST {_DEVICE}/rotate", device_keys.rotate_key, OPERATOR, on_refused=device_keys.ask_to_rotate_key),
    Route(f"GET {_DEVICE}/disable", devices.ask_to_disable_device, OPERATOR),
    Route(f"POST {_DEVICE}/disable", devices.disable_device, OPERATOR, on_refused=devices.ask_to_disable_device),
    Route(f"POST {_DEVICE}/enable", devices.enable_device, OPERATOR, on_refused=devices.show_device),
    Route(f"GET {_DEVICE}/remove", devices.ask_to_remove_device, OPERATOR),
    Route(f"POST {_DEVICE}/remove", devices.remove_device, OPERATOR, on_refused=devices.ask_to_remove_device),
    Route(f"POST {_DEVICE}/close", device_cloud.close_connection, OPERATOR, on_refused=devices.show_device),
    Route(f"GET {_DEVICE}/message", device_cloud.show_message_form, OPERATOR),
    Route(f"POST {_DEVICE}/message", device_cloud.send_message, OPERATOR, on_refused=device_cloud.show_message_form),
    Route(f"GET {_CREDENTIAL}", device_cloud.show_credential, VIEWER),
    Route(f"POST {_CREDENTIAL}", device_cloud.look_up_credential, VIEWER, on_refused=device_cloud.show_credential),
    Route(
        f"POST {_CREDENTIAL}/register",
        device_cloud.register_credential,
        OPERATOR,
        on_refused=device_cloud.show_credential,
    ),
    Route(
        f"POST {_CREDENTIAL}/refresh",
        device_cloud.refresh_credential,
        OPERATOR,
        on_refused=device_cloud.show_credential,
    ),
    Route(f"GET {_CREDENTIAL}/unregister", device_cloud.ask_to_unregister_credential, OPERATOR),
    Route(
        f"POST {_CREDENTIAL}/unregister",
        device_cloud.unregister_credential,
        OPERATOR,
        on_refused=device_cloud.ask_to_unregister_credential,
    ),
    # Groups.
    Route("GET /admin/groups", groups.show_groups, VIEWER),
    Route("POST /admin/groups", groups.create_group, OPERATOR, on_refused=groups.show_groups),
    Route("GET /admin/groups/{group_id}/delete", groups.ask_to_delete_group, OPERATOR),
    Route("POST /admin/groups/{group_id}/delete", groups.delete_group, OPERATOR, on_refused=groups.ask_to_delete_group),
    # Audit.
    Route("GET /admin/audit", audit.show_audit, VIEWER),
    Route("POST /admin/audit", audit.search_by_token, VIEWER, on_refused=audit.show_audit),
    Route("GET /admin/audit.csv", audit.export_audit, VIEWER),
    # Explorer.
    Route("GET /admin/explorer", explorer.show_actions, ADMIN),
    Route("GET /admin/explorer/{action}", explorer.show_action, ADMIN),
    Route("POST /admin/explorer/{action}", explorer.call_action, ADMIN, on_refused=explorer.show_action),
    # Operators, API keys and one's own account.
    Route("GET /admin/operators", operators.show_operators, ADMIN),
    Route("POST /admin/operators", operators.add_operator, ADMIN, on_refused=operators.show_operators),
    Route("GET /admin/operators/{name}", operators.show_operator, ADMIN),
    Route("POST /admin/operators/{name}/role", operators.set_operator_role, ADMIN, on_refused=operators.show_operator),
    Route(
        "POST /admin/operators/{name}/password",
        operators.set_operator_password,
        ADMIN,
        on_refused=operators.show_operator,
    ),
    Route(
        "POST /admin/operators/{name}/sessions",
        operators.end_operator_sessions,
        ADMIN,
        on_refused=operators.show_operator,
    ),
    Route("GET /admin/operators/{name}/remove", operators.ask_to_remove_operator, ADMIN),
    Route("POST /admin/operators/{name}/remove", operators.remove_operator, ADMIN, on_refused=operators.show_operator),
    Route("GET /admin/keys", api_keys.show_api_keys, ADMIN),
    Route("POST /admin/keys", api_keys.add_api_key, ADMIN, on_refused=api_keys.show_api_keys),
    Route("GET /admin/keys/{name}/remove", api_keys.ask_to_remove_api_key, ADMIN),
    Route("POST /admin/keys/{name}/remove", api_keys.remove_api_key, ADMIN, on_refused=api_keys.ask_to_remove_api_key),
    Route("GET /admin/account", account.show_account, VIEWER),
    Route("POST /admin/account/password", account.change_own_password, VIEWER, on_refused=account.show_account),
    Route("POST /admin/account/sessions", account.end_own_sessions, VIEWER, on_refused=account.show_account),
    # Last, for all else: an operator who is signed in gets a page of the console that says so.
    Route("GET /admin/{rest:.*}", session.show_nothing, VIEWER),
)
"""The pages of operators, each with the least role that may open it, or send its form."""


OTHERS: Final = (
    Route("GET /", home.show_home, VISITOR),
    Route("GET /healthz", health.healthz, OPEN),
    Route("GET /readyz", health.readyz, OPEN),
    Route("GET /openapi.json", OpenApi(API).send_description, OPEN),
    # OAuth.
    Route("GET /.well-known/oauth-authorization-server", oauth.show_metadata, OPEN),
    Route(f"POST {TOKEN_PATH}", oauth.issue_token, OAUTH),
    Route("POST /oauth/introspect", oauth.introspect_token, OAUTH),
    Route("POST /oauth/revoke", oauth.revoke_token, OAUTH),
    # The console before signing in.
    Route("GET /admin", session.go_to_overview, VISITOR),
    Route("GET /admin/static/{name}", rendering.send_static_file, VISITOR),
    Route("GET /admin/sign-in", session.ask_to_sign_in, VISITOR),
    Route("POST /admin/sign-in", session.sign_in, VISITOR),
    Route("POST /admin/sign-out", session.sign_out, VISITOR),
    Route("POST /admin/language", session.choose_language, VISITOR),
)
"""What devices call, and what everyone may."""

ROUTES: Final = (*OTHERS, *API, *CONSOLE)


def add_routes(app: web.Application) -> None:
    """Add every address to ``app``, and what their answers need."""
    app[CALLER_LIMITS] = CallerLimits()
    app[CLIENT_ADDRESSES] = ClientAddresses(app[SERVICES].settings.trusted_networks)
    rendering.set_up(app)
    app.add_routes([web.route(each.method, each.path, each.answer) for each in ROUTES])


def render_refusal(request: web.Request, refusal: Refusal) -> web.Response:
    """Answer a request that is refused: with a page below the console's address, with JSON elsewhere."""
    return rendering.render_refusal_at_once(request, refusal) if rendering.is_console(request) else render_json(refusal)
