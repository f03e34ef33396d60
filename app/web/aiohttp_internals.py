"""All that depends on private parts of aiohttp: how a request that cannot be read is answered.

aiohttp refuses what is not valid HTTP, or too long to be read, before there is a request, so that no middleware sees
it. Here it gets the form of all other refusals and one entry in the log. Neither quotes what was sent: its address may
hold a secret. ``tests/web/test_aiohttp_internals.py`` fails where another aiohttp has other parts.
"""

from __future__ import annotations

import secrets
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from app.errors import Internal, InvalidRequest, Refusal
from app.model.text import _
from app.web.middleware import SERVER_FAULT, render_json, stamp
from app.web.route import SERVICES

log = structlog.get_logger(__name__)

MALFORMED: Final = _("the request is not valid HTTP: send HTTP/1.1")
TOO_LONG: Final = _("the address or a header is too long: send parameters in the body")


class MalformedHttpRunner(web.AppRunner):
    """Runs an application behind a ``MalformedHttpServer``."""

    async def _make_server(self) -> web.Server:
        """Make what answers each connection; gunicorn's worker and ``serve`` both come by here."""
        return MalformedHttpServer(self.app, await super()._make_server())


class MalformedHttpServer(web.Server):
    """The server of an application, which answers what is not valid HTTP as the application answers errors."""

    def __init__(self, app: web.Application, made: web.Server) -> None:
        """Replace ``made``, which aiohttp made for ``app``."""
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,  # noqa: SLF001 - no public attribute has it
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
        server = self._manager
        if request.writer.output_size > 0 or not isinstance(server, MalformedHttpServer):
            raise ConnectionError("part of an answer was sent already")
        request_id = secrets.token_hex(8)
        refusal = _refusal(status, exc)
        if isinstance(refusal, Internal):
            log.error("request_broken", exc_info=exc, request_id=request_id)
        response = render_json(refusal)
        stamp(response, server.app[SERVICES], request_id)
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
        return Internal(SERVER_FAULT)
    return InvalidRequest(TOO_LONG if isinstance(exc, LineTooLong) else MALFORMED)
