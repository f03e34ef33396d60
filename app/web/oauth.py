"""The OAuth endpoints: token, introspect, revoke, and the metadata that describes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from app.container import Services
from app.errors import InvalidRequest, UnsupportedGrantType
from app.logs import REQUEST_ID
from app.model.devices import Algorithm, Method
from app.model.secrets import Secret
from app.model.text import _
from app.service.issue import IssuedToken
from app.settings import Settings
from app.web.client_address import client_address
from app.web.client_authentication import ClientForm, read_caller, read_credentials
from app.web.middleware import LOG_FIELDS
from app.web.request_input import MAX_PARAMETERS, read_form
from app.web.route import SERVICES, Access, Admitted, Answer, Route

GRANT_TYPE: Final = "client_credentials"
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclass(frozen=True, slots=True)
class OAuthRequest:
    """What an OAuth endpoint gets: the ``Authorization`` headers, the services, and until when it must answer.

    ``address`` is the caller's IP address, or empty; ``deadline`` is loop time in seconds. ``log_fields`` is added to
    the request's entry in the log.
    """

    authorization: Sequence[str]
    services: Services
    request_id: str
    address: str
    deadline: float
    log_fields: dict[str, object] = field(default_factory=dict)


class TokenForm(ClientForm, frozen=True, kw_only=True):
    """A request for a token (RFC 6749 section 4.4.2); ``expires_in`` is in seconds."""

    grant_type: str
    scope: str | None = None
    expires_in: str | None = None


class TokenLookupForm(ClientForm, frozen=True, kw_only=True):
    """A question about a token, or its revocation (RFC 7662 section 2.1, RFC 7009 section 2.1)."""

    token: Secret


async def issue_token(request: OAuthRequest, form: TokenForm) -> Mapping[str, object]:
    """Answer ``POST /oauth/token`` (RFC 6749 section 4.4)."""
    if form.grant_type != GRANT_TYPE:
        raise UnsupportedGrantType(_("grant_type must be %(expected)s", expected=GRANT_TYPE))
    credentials = read_credentials(request.authorization, form)
    with request.services.refusals.of(credentials, request_id=request.request_id):
        issued = await request.services.issuer.issue(
            credentials,
            form.scope,
            form.expires_in,
            address=request.address,
            deadline=request.deadline,
            request_id=request.request_id,
        )
    request.log_fields.update(client_id=issued.client_id, handle=issued.handle, expires_in_s=issued.expires_in_s)
    return _token_answer(issued, request.services.settings)


async def introspect_token(request: OAuthRequest, form: TokenLookupForm) -> Mapping[str, object]:
    """Answer ``POST /oauth/introspect`` (RFC 7662 section 2)."""
    caller = read_caller(request.authorization, form)
    with request.services.refusals.of(caller, request_id=request.request_id):
        found = await request.services.introspector.introspect(
            caller, form.token, address=request.address, deadline=request.deadline
        )
    if found is None:
        return {"active": False}
    return {
        "active": True,
        "client_id": found.client_id,
        "sub": found.client_id,
        "scope": found.scope,
        "token_type": "Bearer",
        "iss": request.services.settings.issuer_url,
        "iat": found.issued_at_s,
        "exp": found.expires_at_s,
        "handle": found.handle,
        "cloud_checked": found.cloud_checked,
    }


async def revoke_token(request: OAuthRequest, form: TokenLookupForm) -> Mapping[str, object]:
    """Answer ``POST /oauth/revoke`` (RFC 7009 section 2): 200 also for what is not a token."""
    caller = read_caller(request.authorization, form)
    with request.services.refusals.of(caller, request_id=request.request_id):
        revoked = await request.services.revoker.revoke(
            caller, form.token, address=request.address, deadline=request.deadline, request_id=request.request_id
        )
    if revoked is None:
        return {}
    at_broker = "revoked" if revoked.confirmed else "still valid at the broker until the cloud confirms"
    return {"handle": revoked.handle, "broker": at_broker}


async def show_metadata(request: web.Request) -> web.Response:
    """Answer ``GET /.well-known/oauth-authorization-server`` (RFC 8414 section 2)."""
    url = request.app[SERVICES].settings.issuer_url
    methods = [method.value for method in Method]
    algorithms = [algorithm.value for algorithm in Algorithm]
    answer: dict[str, Any] = {
        "issuer": url,
        "response_types_supported": [],
        "grant_types_supported": [GRANT_TYPE],
    }
    for name, path in (("token", "token"), ("introspection", "introspect"), ("revocation", "revoke")):
        answer[f"{name}_endpoint"] = f"{url}/oauth/{path}"
        answer[f"{name}_endpoint_auth_methods_supported"] = methods
        answer[f"{name}_endpoint_auth_signing_alg_values_supported"] = algorithms
    return web.json_response(answer)


async def _run(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer a request when fewer than the bound are worked on; it is not read before."""
    async with request.app[SERVICES].limiter.turn(lambda: request.transport is None):
        return await answer()


async def _admit(request: web.Request, _route: Route) -> Admitted:
    """Read the form. Who calls is for the service to verify, together with what is asked for.

    Raises ``InvalidRequest`` and ``TooLarge``.
    """
    services = request.app[SERVICES]
    deadline = asyncio.get_running_loop().time() + services.settings.request_deadline_s
    if request.query_string:
        # Logs and histories keep URLs: a secret in one would be readable there.
        raise InvalidRequest(_("send the parameters in the body, not in the URL"))
    # A client that sends slowly, or means harm, must not keep others from being served.
    with nullcontext() if request.content.is_eof() else services.limiter.suspended():
        form = await read_form(request, max_fields=MAX_PARAMETERS)
    oauth_request = OAuthRequest(
        request.headers.getall("Authorization", []),
        services,
        REQUEST_ID.get(""),
        address=client_address(request),
        deadline=deadline,
    )
    request[LOG_FIELDS] = oauth_request.log_fields
    return Admitted(request, oauth_request, form=form)


async def _render(_request: web.Request, answer: Mapping[str, object]) -> web.Response:
    return web.json_response(answer, headers=NO_STORE)


OAUTH: Final = Access(run=_run, admit=_admit, render=_render)
"""For devices, and for services with an API key; each answer may hold a secret.

An instance works on a bounded number of these requests at a time. The others are not refused: they wait to be read.
"""


def _token_answer(issued: IssuedToken, settings: Settings) -> dict[str, object]:
    """Build the answer that can be pasted into MQTT CONNECT."""
    password = issued.password
    return {
        "access_token": password,
        "token_type": "Bearer",
        "expires_in": issued.expires_in_s,
        "scope": issued.scope,
        "mqtt": {
            "host": settings.broker_host,
            "port": settings.mqtt_port,
            "tls": settings.mqtt_tls,
            "client_id": issued.client_id,
            "username": settings.mqtt_username,
            "password": password,
            "tokens": [
                {"type": each.type.value, "token": each.token.reveal(), "expires_at": issued.expires_at_ms}
                for each in issued.cloud_tokens
            ],
        },
        "handle": issued.handle,
    }
