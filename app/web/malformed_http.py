"""What is no HTTP, or too long to be read: aiohttp refuses it before there is a request, so no middleware sees it.

Here it gets the form of our own refusals and one line in the log. Neither quotes it: its address may hold a secret.
"""

from __future__ import annotations

import secrets
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from app.errors import Internal, InvalidRequest, Refusal
from app.web.middleware import render, stamp

log = structlog.get_logger(__name__)

MALFORMED: Final = "this is no HTTP that can be read: send HTTP/1.1"
TOO_LONG: Final = "the address or a header is too long: parameters belong into the body"


class JsonErrorServer(web.Server):
    """The server that an application runs behind, with another answer to what cannot be read."""

    def __init__(self, app: web.Application, made: web.Server) -> None:
        """Stand in for ``made``, which aiohttp made for ``app``."""
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,  # noqa: SLF001 - what it was given is told nowhere else
            **made._kwargs,  # noqa: SLF001
        )
        self.app = app

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of a new connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what was sent
    ) -> web.StreamResponse:
        """Answer what could not be read, or (500) what broke outside every handler. The connection ends with it."""
        door = self._manager
        if request.writer.output_size > 0 or not isinstance(door, JsonErrorServer):
            raise ConnectionError("an answer was begun already")
        request_id = secrets.token_hex(8)
        refusal = _refusal(status, exc)
        if isinstance(refusal, Internal):
            log.error("broken", exc_info=exc, request_id=request_id)
        response = render(refusal)
        stamp(response, door.app, request_id)
        response.force_close()
        log.info(
            "request",
            path="(not read)",
            status=refusal.status,
            error=refusal.code,
            description=refusal.description,
            cause=type(exc).__name__,
            request_id=request_id,
        )
        return response


def _refusal(status: int, exc: BaseException | None) -> Refusal:
    if status >= Internal.status:
        return Internal("a fault of the server: report the request ID")
    return InvalidRequest(TOO_LONG if isinstance(exc, LineTooLong) else MALFORMED)
