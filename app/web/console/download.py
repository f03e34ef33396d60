"""Sending a file as it is made: within the operators' share, a bounded number at once, each within a bounded time.

A part is made when the one before was taken, so an export holds two of them. It ends as soon as its reader has gone. A
reader who takes too little keeps a place from others: then the connection is closed, and the browser sees that the file
is not whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Final, NoReturn

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from app.errors import Refusal
from app.web.caller_limits import ANSWER_WITHIN_S, CALLER_LIMITS, Place
from app.web.console.rendering import SIGNED_IN
from app.web.console.results import Download
from app.web.route import SERVICES

log = structlog.get_logger(__name__)

TAKEN_WITHIN_S: Final = 20.0
"""How long a reader may take for one part, and what the system holds back for them."""

SENT_WITHIN_S: Final = 900.0
"""How long a whole export may take."""

BEGUN_WITHIN_S: Final = 5.0
"""An answer that is not being sent by then never will be: its reader left too early. It leaves its place."""

LOOK_EVERY_S: Final = 0.1
"""How often an export looks whether its reader is still there, while it makes a part."""


async def start_download(request: web.Request, download: Download) -> web.Response:
    """Wait for a place, and return the answer, not yet sent. Raises ``Unavailable`` if there is no place in time."""
    limiter, caller = request.app[CALLER_LIMITS].exports, request[SIGNED_IN].actor_name
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            place = await limiter.take_place(caller)
    except TimeoutError:
        raise limiter.refusal() from None
    headers = {"Content-Disposition": f'attachment; filename="{download.filename}"'}
    return web.Response(body=_DownloadBody(request, download, place), headers=headers)


class _DownloadBody(Payload):
    """The body of an answer that is made while it is sent."""

    def __init__(self, request: web.Request, download: Download, place: Place) -> None:
        super().__init__(download, content_type=download.content_type)
        self._request = request
        self._parts = download.parts
        self._place = place
        self._unsent = asyncio.get_running_loop().call_later(BEGUN_WITHIN_S, place.leave)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 (aiohttp's names)
        """Refuse: what is made part by part is nowhere as a whole. Raises ``TypeError``."""
        raise TypeError("a download is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the file. Raises ``ConnectionResetError`` where the reader has gone, or the file cannot be completed."""
        self._unsent.cancel()
        share = self._request.app[SERVICES].operators_share
        try:
            async with aclosing(self._parts), asyncio.timeout(SENT_WITHIN_S) as limit:
                with _ended_without_reader(self._request, limit):
                    await share.run(partial(self._send, writer))
        except (Refusal, TimeoutError) as error:
            self._break_off(error)
        finally:
            self._place.leave()

    async def _send(self, writer: AbstractStreamWriter) -> None:
        async for part in self._parts:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await writer.write(part)
                await writer.drain()

    def _break_off(self, error: Refusal | TimeoutError) -> NoReturn:
        """Close the connection at once: what its reader has not taken yet is not kept for them."""
        if not _has_left(self._request):
            cause = (error.cause or error.description) if isinstance(error, Refusal) else "its reader is too slow"
            log.warning("export_broken_off", who=self._request[SIGNED_IN].actor_name, cause=cause)
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionResetError("the export was broken off") from error


@contextmanager
def _ended_without_reader(request: web.Request, limit: asyncio.Timeout) -> Iterator[None]:
    """Let ``limit`` end as soon as the reader has left; aiohttp says so only to those who write."""
    loop = asyncio.get_running_loop()
    is_over = False

    def look() -> None:
        if is_over:
            return
        if _has_left(request):
            limit.reschedule(loop.time())
        else:
            loop.call_later(LOOK_EVERY_S, look)

    look()
    try:
        yield
    finally:
        is_over = True


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
