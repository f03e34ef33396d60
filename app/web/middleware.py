"""What every answer has in common: request ID, server time, one form of error, one log line."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
from aiohttp import web

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
from app.model.mqtt_password import without_passwords
from app.store.clock import RedisClock

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLOCK: Final = web.AppKey("clock", RedisClock)
DRAINING: Final = web.AppKey("draining", asyncio.Event)
"""Set from SIGTERM on."""

LOG_FIELDS: Final = web.RequestKey("told", dict[str, object])
"""What a handler adds to the request's line in the log: one line costs half as much as two."""

Renderer = Callable[[web.Request, Refusal], web.Response]
RENDERERS: Final = web.AppKey("renderers", Sequence[tuple[Callable[[web.Request], bool], Renderer]])
"""How a refusal is shown to some requests, where not as JSON."""

ANSWERED: Final = web.AppKey("answered", Mapping[str, Callable[[int], None]])
"""Who counts the answers at an address, by their status."""

_REALM: Final = 'realm="mqtt-token-server"'
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an ID, turn refusals into answers, stamp the time, log one line."""
    given = request.headers.get("X-Request-ID", "")
    # Anything else could forge a log line. It is for finding things, never for deciding any.
    request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    started = time.perf_counter()
    logged = REQUEST_ID.set(request_id)
    try:
        response, refusal = await _answer(request, handler)
        stamp(response, request.app, request_id)
        if request.app[DRAINING].is_set():
            # So that nobody sends the next request into a connection that is about to close.
            response.force_close()
        if counted := request.app[ANSWERED].get(request.path):
            counted(response.status)
        _log(request, response, refusal, elapsed_ms=round((time.perf_counter() - started) * 1000, 1))
    finally:
        REQUEST_ID.reset(logged)
    return response


def stamp(response: web.StreamResponse, app: web.Application, request_id: str) -> None:
    """Give an answer the headers that every answer has."""
    response.headers["X-Request-ID"] = request_id
    # A device without a clock sets itself by this.
    response.headers["X-Timestamp"] = str(app[CLOCK].now_s())
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "mqtt-token-server"  # without versions, which only an attacker would use


async def _answer(request: web.Request, handler: Handler) -> tuple[web.StreamResponse, Refusal | None]:
    """Call the handler; what it raises becomes an answer."""
    try:
        return await handler(request), None
    except Refusal as error:
        return _show(request, error), error
    except web.HTTPException as error:
        refusal = _translate(error)
        response = _show(request, refusal) if refusal else error
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response, refusal
    except Exception:
        log.exception("broken")
        broken = Internal("a fault of the server: report the request ID")
        return _show(request, broken), broken


def _show(request: web.Request, refusal: Refusal) -> web.Response:
    for meant, renderer in request.app[RENDERERS]:
        if meant(request):
            return renderer(request, refusal)
    return render(refusal)


def render(refusal: Refusal) -> web.Response:
    """Render a refusal (RFC 6749 section 5.2): the description goes out, the cause does not."""
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
    body = {"error": refusal.code, "error_description": printable(refusal.description)}
    return web.json_response(body, status=refusal.status, headers=headers)


def add_log_fields(request: web.Request, **more: object) -> None:
    """Add to the request's line in the log."""
    told: dict[str, object] = request.get(LOG_FIELDS, {})
    request[LOG_FIELDS] = told | more


def printable(text: str) -> str:
    """Keep to the characters RFC 6749 allows in ``error_description``; what a caller sent may hold any."""
    text = text.replace('"', "'").replace("\\", "/")
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def _translate(error: web.HTTPException) -> Refusal | None:
    """Give what aiohttp refuses on its own the form of our own refusals."""
    match error:
        case web.HTTPNotFound():
            return NotFound("there is nothing at this address")
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(f"this address takes {', '.join(sorted(error.allowed_methods))}")
        case web.HTTPRequestEntityTooLarge():
            return TooLarge("the request is too large")
        case _:
            return None


def _log(request: web.Request, response: web.StreamResponse, refusal: Refusal | None, *, elapsed_ms: float) -> None:
    line = {"method": request.method, "path": _shown(request), "status": response.status, "ms": elapsed_ms}
    if refusal is None:
        log.info("request", **line, **request.get(LOG_FIELDS, {}))
    else:
        description, cause = without_passwords(refusal.description), without_passwords(refusal.cause)
        told = {"error": refusal.code, "description": description, "cause": cause}
        log.info("request", **line, **(request.get(LOG_FIELDS, {}) | told))


def _shown(request: web.Request) -> str:
    """Return the address as the route table has it: what a caller puts into a path may be a token, or any secret."""
    if resource := request.match_info.route.resource:
        return resource.canonical
    # No such address, or not by this method.
    return request.path if request.path in _plain_addresses(request.app.router) else "(none of ours)"


def _plain_addresses(router: web.UrlDispatcher) -> set[str]:
    return {resource.canonical for resource in router.resources() if isinstance(resource, web.PlainResource)}
