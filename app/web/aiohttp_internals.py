"""All that depends on private parts of aiohttp: requests that cannot be read, and connections that must be closed.

aiohttp refuses what is not valid HTTP, or too long to be read, before there is a request, so that no middleware sees
it. Here it gets the form of all other refusals and one entry in the log. Neither quotes what was sent: its address may
hold a secret. aiohttp also limits neither the number of connections nor the time that headers take; each connection
here joins a ``ConnectionTable``, which does. ``tests/web/test_aiohttp_internals.py`` fails where another aiohttp has
other parts.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from app.errors import Internal, InvalidRequest, Refusal, RequestTimeout
from app.model.text import _
from app.tasks import running
from app.web.connections import Admission, ConnectionLimits, ConnectionTable
from app.web.middleware import SERVER_FAULT, render_json, stamp
from app.web.reserve import answer_in_reserve, refusal_when_full
from app.web.route import SERVICES

log = structlog.get_logger(__name__)

MALFORMED: Final = _("the request is not valid HTTP: send HTTP/1.1")
TOO_LONG: Final = _("the address or a header is too long: send parameters in the body")


SLOW_HEADERS: Final = _("the headers did not arrive completely in time: send them at once")


class LimitedRunner(web.AppRunner):
    """Runs an application behind a ``LimitedServer``."""

    def __init__(self, app: web.Application, *, limits: ConnectionLimits, **options: Any) -> None:
        """``options`` are those of ``web.AppRunner``."""
        super().__init__(app, keepalive_timeout=limits.idle_s, **options)
        self._limits = limits
        self._stack = AsyncExitStack()

    async def _make_server(self) -> web.Server:
        """Make what answers each connection; gunicorn's worker and ``serve`` both come by here."""
        server = LimitedServer(self.app, await super()._make_server(), self._limits)
        await self._stack.enter_async_context(running(server.table.check_regularly))
        return server

    def _reg_site(self, site: web.BaseSite) -> None:
        """Note a place to listen at, just before it listens: gunicorn's worker cannot be given a backlog."""
        super()._reg_site(site)
        site._backlog = self._limits.backlog  # noqa: SLF001

    async def _cleanup_server(self) -> None:
        await self._stack.aclose()
        await super()._cleanup_server()


class LimitedServer(web.Server):
    """The server of an application: limits its connections, and answers what is not valid HTTP as it answers errors."""

    def __init__(self, app: web.Application, made: web.Server, limits: ConnectionLimits) -> None:
        """Replace ``made``, which aiohttp made for ``app``."""
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,  # noqa: SLF001 - no public attribute has it
            **made._kwargs,  # noqa: SLF001
        )
        self.app = app
        self.table = ConnectionTable(limits, self._loop.time)

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of a new connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_has_sent", "_headers_since", "_opened", "_server", "_unread_since")

    def __init__(self, server: LimitedServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        # Of the request whose headers are not complete: since when they are waited for, and whether some have arrived.
        self._headers_since: float | None = None
        self._has_sent = False
        # Since when the client has read nothing of what waits to be sent.
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; in the reserve, most is refused."""
        super().connection_made(transport)
        self._headers_since = self._loop.time()
        # aiohttp gives up its own reference when it closes the connection, which stays open until everything is sent.
        self._opened = cast("asyncio.Transport", transport)
        peer = self._opened.get_extra_info("peername")
        admission = self._server.table.add(self, peer[0] if isinstance(peer, tuple) else "")
        if admission is Admission.CLOSED:
            self._opened.abort()
        elif admission is not Admission.SERVED:
            self._request_handler = partial(answer_in_reserve, self._server.request_handler, admission)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._server.table.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; note when the first byte of a request came. This runs for each request."""
        super().data_received(data)
        if not self._waits_for_headers:
            self._headers_since, self._has_sent = None, False
        elif not self._has_sent:
            self._has_sent = True
            self._headers_since = self._headers_since or self._loop.time()

    def resume_writing(self) -> None:
        """Go on writing: the client has read at least 48 KiB."""
        self._unread_since = None
        super().resume_writing()

    @property
    def waiting_since(self) -> float | None:
        """As ``OpenConnection``: waiting for the headers, for the rest of a body, or for an answer to be read."""
        if self._unread_since is not None:
            return self._unread_since
        request = self._current_request
        if self._messages or (self._request_in_progress and (request is None or request.content.is_eof())):
            return None
        # When the last answer was sent, or the connection was made.
        return self._next_keepalive_close_time - self._keepalive_timeout

    def close_for_another(self) -> None:
        """As ``OpenConnection``."""
        self._close_with(refusal_when_full(Admission.FULL))

    def close_if_overdue(self, now: float) -> None:
        """Close it if the headers are not complete, or what is sent is not read, for too long."""
        limits = self._server.table.limits
        if self._opened.get_write_buffer_size() == 0:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= limits.unread_s:
            # Closing it would wait until the client has read the rest.
            self._opened.abort()
            return
        since = self._headers_since
        if self._waits_for_headers and since is not None and now - since >= limits.headers_s:
            self._close_with(RequestTimeout(SLOW_HEADERS))

    @property
    def _waits_for_headers(self) -> bool:
        # Before the first request there may be no waiter yet.
        return self._request_count == 0 if self._waiter is None else not self._waiter.done()

    def _close_with(self, refusal: Refusal) -> None:
        """Close it; a client that has sent part of its headers gets an answer, as it expects one."""
        if self._has_sent and self._waits_for_headers and self._waiter is not None:
            self._messages.append((_ErrInfo(refusal.status, refusal, ""), EMPTY_PAYLOAD))
            self._waiter.set_result(None)
        else:
            self._opened.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what was sent
    ) -> web.StreamResponse:
        """Answer what could not be read, or (500) what broke outside every handler. The connection ends with it."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        request_id = secrets.token_hex(8)
        refusal = _refusal(status, exc)
        if isinstance(refusal, Internal):
            log.error("request_broken", exc_info=exc, request_id=request_id)
        response = render_json(refusal)
        stamp(response, self._server.app[SERVICES], request_id)
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
    if isinstance(exc, Refusal):
        return exc
    if status >= Internal.status:
        return Internal(SERVER_FAULT)
    return InvalidRequest(TOO_LONG if isinstance(exc, LineTooLong) else MALFORMED)
