"""The OAuth endpoints: token, introspect, revoke, and the metadata that describes them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from app.errors import UnsupportedGrantType
from app.logs import REQUEST_ID
from app.model.devices import Algorithm, Method
from app.model.secrets import Secret
from app.service.introspect import Introspector
from app.service.issue import IssuedToken, Issuer
from app.service.refusals import Refusals
from app.service.revoke import Revoker
from app.web.forms import read_caller, read_credentials, read_form, required
from app.web.middleware import LOG_FIELDS

log = structlog.get_logger(__name__)

GRANT_TYPE: Final = "client_credentials"
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """How devices reach the broker."""

    host: str
    port: int
    tls: bool
    username: str


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints call."""

    issuer: Issuer
    introspector: Introspector
    revoker: Revoker
    refusals: Refusals
    broker: BrokerAddress
    issuer_url: str
    deadline_s: float


SERVICES: Final = web.AppKey("services", Services)


async def token(request: web.Request) -> web.Response:
    """Answer ``POST /oauth/token`` (RFC 6749 section 4.4)."""
    services = request.app[SERVICES]
    deadline = asyncio.get_running_loop().time() + services.deadline_s
    form = await read_form(request)
    if required(form, "grant_type") != GRANT_TYPE:
        raise UnsupportedGrantType(f"grant_type must be {GRANT_TYPE}")
    credentials = read_credentials(request, form)
    with services.refusals.of(credentials, request_id=REQUEST_ID.get("")):
        issued = await services.issuer.issue(credentials, form.get("scope"), form.get("expires_in"), deadline=deadline)
    request[LOG_FIELDS] = {"client_id": issued.client_id, "handle": issued.handle, "expires_in_s": issued.expires_in_s}
    return web.json_response(_token_answer(issued, services.broker), headers=NO_STORE)


async def introspect(request: web.Request) -> web.Response:
    """Answer ``POST /oauth/introspect`` (RFC 7662 section 2)."""
    services = request.app[SERVICES]
    deadline = asyncio.get_running_loop().time() + services.deadline_s
    form = await read_form(request)
    text = Secret(required(form, "token"))
    caller = read_caller(request, form)
    with services.refusals.of(caller, request_id=REQUEST_ID.get("")):
        found = await services.introspector.introspect(caller, text, deadline=deadline)
    if found is None:
        return web.json_response({"active": False}, headers=NO_STORE)
    answer = {
        "active": True,
        "client_id": found.client_id,
        "sub": found.client_id,
        "scope": found.scope,
        "token_type": "Bearer",
        "iss": services.issuer_url,
        "iat": found.issued_at_s,
        "exp": found.expires_at_s,
        "handle": found.handle,
        "cloud_checked": found.cloud_checked,
    }
    return web.json_response(answer, headers=NO_STORE)


async def revoke(request: web.Request) -> web.Response:
    """Answer ``POST /oauth/revoke`` (RFC 7009 section 2): 200 also for a token that is none."""
    services = request.app[SERVICES]
    form = await read_form(request)
    text = Secret(required(form, "token"))
    caller = read_caller(request, form)
    with services.refusals.of(caller, request_id=REQUEST_ID.get("")):
        revoked = await services.revoker.revoke(caller, text)
    if revoked is None:
        return web.json_response({}, headers=NO_STORE)
    at_broker = "revoked" if revoked.confirmed else "still valid at the broker until the cloud confirms"
    return web.json_response({"handle": revoked.handle, "broker": at_broker}, headers=NO_STORE)


async def metadata(request: web.Request) -> web.Response:
    """Answer ``GET /.well-known/oauth-authorization-server`` (RFC 8414 section 2)."""
    url = request.app[SERVICES].issuer_url
    methods = [method.value for method in Method]
    algorithms = [algorithm.value for algorithm in Algorithm]
    answer: dict[str, Any] = {
        "issuer": url,
        "response_types_supported": [],
        "grant_types_supported": [GRANT_TYPE],
    }
    for name in ("token", "introspection", "revocation"):
        path = {"token": "token", "introspection": "introspect", "revocation": "revoke"}[name]
        answer[f"{name}_endpoint"] = f"{url}/oauth/{path}"
        answer[f"{name}_endpoint_auth_methods_supported"] = methods
        answer[f"{name}_endpoint_auth_signing_alg_values_supported"] = algorithms
    return web.json_response(answer)


def _token_answer(issued: IssuedToken, broker: BrokerAddress) -> dict[str, Any]:
    """Build the answer that can be pasted into MQTT CONNECT (PRODUCT, the token answer)."""
    password = issued.password
    return {
        "access_token": password,
        "token_type": "Bearer",
        "expires_in": issued.expires_in_s,
        "scope": issued.scope,
        "mqtt": {
            "host": broker.host,
            "port": broker.port,
            "tls": broker.tls,
            "client_id": issued.client_id,
            "username": broker.username,
            "password": password,
            "tokens": [
                {"type": each.type.value, "token": each.token.reveal(), "expires_at": issued.expires_at_ms}
                for each in issued.cloud_tokens
            ],
        },
        "handle": issued.handle,
    }
