"""Connections to the cloud that are opened first, and written to when there is a permit.

``aiohttp.ClientSession`` connects and sends in one step, so that permits would have to be taken before it is known how
long connecting takes. Here aiohttp's connector opens and keeps the connections (DNS, TCP, TLS, pool) and its parser
reads the answers, but a call is written in one step: nothing waits between the check of its permit and the socket.

All that depends on undocumented parts of aiohttp is in this module. ``tests/cloud/test_permit_connector.py`` fails
where another aiohttp has other parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from app.cloud.answers import MAX_ANSWER_BYTES, RawAnswer
from app.cloud.errors import CloudError, ErrorKind
from app.model.text import _
from app.tasks import all_of

SHORT_LIFE_S: Final = 1.0
"""A new connection that the cloud closes before this time is over counts as a failure to connect."""

_INTERIM: Final = range(100, 200)
"""Statuses of answers that another one follows (RFC 9110 15.2)."""

_HEADERS: Final[Mapping[str, str]] = {
    "Accept": "application/json",
    # A compressed answer is not asked for and not read: a few bytes could unfold into gigabytes.
    "Accept-Encoding": "identity",
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": "mqtt-token-server",
}


class CloudConnection:
    """A connection while it is used for one call."""

    def __init__(self, connection: Connection, head: bytes, on_closed: Callable[[], None]) -> None:
        """``head`` is the request up to the length of the form. ``on_closed`` is called if the cloud closes it."""
        self._connection = connection
        self._protocol = _protocol_of(connection)
        self._protocol.on_closed = on_closed
        self._head = head
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._is_kept = True

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent: the cloud has not closed the connection, nor sent anything on its own."""
        return self._protocol.is_connected() and not self._protocol.should_close

    @property
    def was_short_lived(self) -> bool:
        """Whether the cloud closed the connection soon after it was made: another one would end the same way."""
        is_unused = self._is_kept and not self._protocol.has_answered
        return is_unused and not self.is_open and self._loop.time() - self._opened_at < SHORT_LIFE_S

    def write(self, form: bytes) -> None:
        """Send a call on the open connection, in this step of the loop."""
        self._is_kept = False
        self._protocol.on_closed = None
        self._protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        transport = self._connection.transport
        if transport is None:
            raise ConnectionResetError
        transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(form), form))

    async def read_answer(self, *, deadline: float) -> RawAnswer:
        """Read the answer until ``deadline`` (loop time, in seconds).

        A redirect is returned as it is: to follow it would carry the parameters to wherever it says. Raises
        ``CloudError``, uncertain: the call may have taken effect.
        """
        began = self._loop.time()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._read()
        except TimeoutError:
            message = _("no answer in %(seconds).1f s", seconds=self._loop.time() - began)
            raise CloudError(ErrorKind.UNREACHABLE, "Timeout", message, uncertain=True) from None
        except (aiohttp.ClientError, HttpProcessingError) as error:  # its text could quote the answer
            raise CloudError(ErrorKind.UNREACHABLE, "ConnectionLost", type(error).__name__, uncertain=True) from None

    async def _read(self) -> RawAnswer:
        message, content = await self._protocol.read()
        while message.code in _INTERIM:
            message, content = await self._protocol.read()
        body = await _read_content(content)
        self._is_kept = self._protocol.has_answered = len(body) <= MAX_ANSWER_BYTES
        content_type = message.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return RawAnswer(message.code, message.headers, content_type, body)

    def release(self) -> None:
        """Keep the connection for later calls if nothing was sent on it, or a whole answer was read; else close it."""
        self._protocol.on_closed = None
        if self._is_kept:
            self._connection.release()
        else:
            self._connection.close()


def write_together(connections: Sequence[CloudConnection], forms: Sequence[bytes], *, void_at: float) -> bool:
    """Send each form on its connection, all in this step of the loop; or nothing, and return False.

    Nothing is sent, not even headers, from ``void_at`` on (loop time, in seconds), or where a connection was closed.
    """
    if asyncio.get_running_loop().time() >= void_at or not all(each.is_open for each in connections):
        return False
    for connection, form in zip(connections, forms, strict=True):
        connection.write(form)
    return True


class PermitConnector:
    """The connections to one endpoint. Their number is not limited here: that of the calls under way is (``Quota``)."""

    def __init__(self, url: str) -> None:
        """``url`` is where every call is posted to."""
        self._url = URL(url)
        headers = {"Host": self._url.host_port_subcomponent, **_HEADERS}
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {self._url.raw_path_qs} HTTP/1.1\r\n{fields}Content-Length: ".encode()
        self._pool: aiohttp.TCPConnector
        self._target: aiohttp.ClientRequest

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep connections open in between; at the end close all."""
        loop = asyncio.get_running_loop()
        # The parameters go to the endpoint and to no proxy that the environment happens to name.
        self._target = aiohttp.ClientRequest("POST", self._url, loop=loop, trust_env=False)
        self._pool = aiohttp.TCPConnector(limit=0)
        self._pool._factory = partial(_Protocol, loop=loop)  # type: ignore[assignment] # noqa: SLF001 - no other way
        async with self._pool:
            yield

    @asynccontextmanager
    async def connections(
        self, count: int, *, within_s: float, on_closed: Callable[[], None]
    ) -> AsyncIterator[Sequence[CloudConnection]]:
        """Make or take as many connections as there are calls. ``on_closed`` is called if the cloud closes one.

        Raises ``CloudError`` if one of them cannot be had within ``within_s`` seconds, or is closed soon after.
        """
        opened: list[CloudConnection] = []
        try:
            await all_of(self._connect(opened, within_s, on_closed) for _each in range(count))
            yield opened
            if any(each.was_short_lived for each in opened):
                message = _("the cloud closed the connection before anything was sent")
                raise CloudError(ErrorKind.UNREACHABLE, "CannotConnect", message)
        finally:
            for each in opened:
                each.release()

    async def _connect(self, opened: list[CloudConnection], within_s: float, on_closed: Callable[[], None]) -> None:
        timeout = aiohttp.ClientTimeout(connect=within_s)
        try:
            connection = await self._pool.connect(self._target, [], timeout)
            # What came on a connection before a call was sent is not the answer to it.
            while _protocol_of(connection).should_close:
                connection.close()
                connection = await self._pool.connect(self._target, [], timeout)
        except TimeoutError:
            message = _("no connection in %(seconds).1f s", seconds=within_s)
            raise CloudError(ErrorKind.UNREACHABLE, "CannotConnect", message) from None
        except aiohttp.ClientError as error:
            raise CloudError(ErrorKind.UNREACHABLE, "CannotConnect", str(error)) from None
        opened.append(CloudConnection(connection, self._head, on_closed))


class _Protocol(ResponseHandler):
    """Reports that its connection is lost, also while nothing is read."""

    on_closed: Callable[[], None] | None = None
    has_answered = False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report it."""
        super().connection_lost(exc)
        if self.on_closed:
            self.on_closed()


def _protocol_of(connection: Connection) -> _Protocol:
    if not isinstance(connection.protocol, _Protocol):
        raise TypeError("this aiohttp makes its connections in another way")
    return connection.protocol


async def _read_content(content: aiohttp.StreamReader) -> bytes:
    """Read to the end, but no further than it takes to see that an answer is too long."""
    try:
        return await content.readexactly(MAX_ANSWER_BYTES + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
