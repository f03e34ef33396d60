"""What every answer has in common: request ID, server time, one form of error, one entry in the log."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from app.container import Services
from app.errors import (
    InsufficientScope,
    Internal,
    InvalidClient,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    NoToken,
    Refusal,
    TooLarge,
)
from app.logs import REQUEST_ID
from app.model.sanitize import sanitize_for_error_description, sanitize_for_log
from app.model.text import _
from app.web.route import SERVICES

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOG_FIELDS: Final = web.RequestKey("log_fields", dict[str, object])
"""What a handler adds to the request's entry in the log: one entry costs half as much as two."""

REFUSED_EARLY: Final = web.RequestKey("refused_early", Refusal)
"""Why a request is refused before any handler sees it, if it is."""

RefusalRenderer = Callable[[web.Request, Refusal], web.Response]

SERVER_FAULT: Final = _("a fault of the server: report the request ID")
TOKEN_PATH: Final = "/oauth/token"  # noqa: S105 (an address)

_REALM: Final = 'realm="mqtt-token-server"'
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def envelope(render_refusal: RefusalRenderer) -> Middleware:
    """Return the middleware around all handlers; ``render_refusal`` makes the answer to a request that is refused."""

    @web.middleware
    async def wrap(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request an ID, turn refusals into answers, stamp the time, log one entry."""
        given = request.headers.get("X-Request-ID", "")
        # Anything else could forge a log entry. The ID is for finding things, never for deciding any.
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        started = time.perf_counter()
        logged = REQUEST_ID.set(request_id)
        try:
            response, refusal = await _answer(request, handler, render_refusal)
            services = request.app[SERVICES]
            stamp(response, services, request_id)
            if services.draining.is_set():
                # So that no client sends its next request into a connection that is about to close.
                response.force_close()
            if request.path == TOKEN_PATH:
                services.metrics.answered(response.status)
            _log(request, response, refusal, elapsed_ms=round((time.perf_counter() - started) * 1000, 1))
        finally:
            REQUEST_ID.reset(logged)
        return response

    return wrap


def stamp(response: web.StreamResponse, services: Services, request_id: str) -> None:
    """Give an answer the headers that every answer has."""
    response.headers["X-Request-ID"] = request_id
    # A device without a clock sets itself by this.
    response.headers["X-Timestamp"] = str(services.clock.now_s())
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "mqtt-token-server"  # without versions, which only an attacker would use


async def _answer(
    request: web.Request, handler: Handler, render_refusal: RefusalRenderer
) -> tuple[web.StreamResponse, Refusal | None]:
    """Call the handler; what it raises becomes an answer."""
    if (early := request.get(REFUSED_EARLY)) is not None:
        return render_refusal(request, early), early
    try:
        return await handler(request), None
    except Refusal as error:
        return render_refusal(request, error), error
    except web.HTTPException as error:
        refusal = _refusal_of(error)
        response = render_refusal(request, refusal) if refusal else error
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response, refusal
    except Exception:
        log.exception("request_broken")
        broken = Internal(SERVER_FAULT)
        return render_refusal(request, broken), broken


def render_json(refusal: Refusal) -> web.Response:
    """Render a refusal (RFC 6749 section 5.2): the description is sent, the cause is not."""
    headers = {"Cache-Control": "no-store"}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    match refusal:
        case InvalidClient():
            headers["WWW-Authenticate"] = f"Basic {_REALM}"
        case NoToken():
            headers["WWW-Authenticate"] = f"Bearer {_REALM}"
        case InvalidToken() | InsufficientScope():
            headers["WWW-Authenticate"] = f'Bearer {_REALM}, error="{refusal.code}"'
        case _:
            pass
    body = {"error": refusal.code, "error_description": sanitize_for_error_description(refusal.description)}
    return web.json_response(body, status=refusal.status, headers=headers)


def add_log_fields(request: web.Request, **more: object) -> None:
    """Add to the request's entry in the log."""
    request[LOG_FIELDS] = request.get(LOG_FIELDS, {}) | more


def add_refusal_to_log(request: web.Request, refusal: Refusal) -> None:
    """Add to the request's entry in the log why it was refused."""
    description, cause = sanitize_for_log(refusal.description), sanitize_for_log(refusal.cause)
    add_log_fields(request, error=refusal.code, description=description, cause=cause)


def _refusal_of(error: web.HTTPException) -> Refusal | None:
    """Return what aiohttp refuses on its own in the form of all other refusals."""
    match error:
        case web.HTTPNotFound():
            return NotFound(_("there is nothing at this address"))
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(_("this address takes %(methods)s", methods=allowed))
        case web.HTTPRequestEntityTooLarge():
            return TooLarge(_("the request is too large: send less"))
        case _:
            return None


def _log(request: web.Request, response: web.StreamResponse, refusal: Refusal | None, *, elapsed_ms: float) -> None:
    entry = {"method": request.method, "path": _route_path(request), "status": response.status, "ms": elapsed_ms}
    if refusal is not None:
        add_refusal_to_log(request, refusal)
    log.info("request", **entry, **request.get(LOG_FIELDS, {}))


def _route_path(request: web.Request) -> str:
    """Return the address as the route table has it: what a caller puts into a path may be a token, or any secret."""
    if resource := request.match_info.route.resource:
        return resource.canonical
    # There is no such address, or not for this method.
    return request.path if request.path in _plain_addresses(request.app.router) else "(unknown)"


def _plain_addresses(router: web.UrlDispatcher) -> set[str]:
    return {resource.canonical for resource in router.resources() if isinstance(resource, web.PlainResource)}
