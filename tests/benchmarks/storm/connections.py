"""HTTP/1.1 for the devices of a load: kept-alive connections to the instances in turn, as behind a load balancer.

Bytes over ``asyncio.Protocol``, because the load shares its machine with what it measures, and an HTTP library takes
several times as long for each request.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, cast

PATIENCE_S: Final = 30.0
"""How long to wait for a response. An instance answers within 10 s of having read a request."""

MAX_IDLE_S: Final = 4.0
"""An older connection is not used again: the instance may be closing it."""

AVOIDED_S: Final = 1.0
"""How long an instance that refused a connection gets no requests."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: (\d+)\r\n", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: close\r\n", re.IGNORECASE)


class Reply(NamedTuple):
    """A response."""

    status: int
    retry_after_s: int | None
    body: bytes
    is_last: bool
    """Whether the instance closes the connection."""


class NoReplyError(Exception):
    """A request got no response: its connection was lost or refused, or the time was over."""

    def __init__(self, text: str, port: int) -> None:
        super().__init__(text)
        self.port = port


class Connection(asyncio.Protocol):
    """A connection with at most one open request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle_since_s = 0.0
        self._received = b""
        self._reply: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and time.monotonic() - self.idle_since_s < MAX_IDLE_S

    async def exchange(self, request: bytes) -> Reply:
        """Send a request and return the response. Raises ``NoReplyError`` if the connection is lost."""
        assert self._transport is not None
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._reply
        finally:
            self._reply = None
            self.idle_since_s = time.monotonic()

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        """Resolve the open request once its response is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        head += b"\r\n"
        length = _LENGTH.search(head)
        if separator and length and len(body) >= int(length[1]):
            self._received = b""
            if self._reply is not None and not self._reply.done():
                self._reply.set_result(_read_reply(head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the open request."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(NoReplyError(f"connection lost: {exc!r}", self.port))


class Balancer:
    """Sends each request to the next instance; one that refuses connections is left out for a second."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._turns = itertools.cycle(ports)
        self._count = len(ports)
        self._idle: dict[int, list[Connection]] = {port: [] for port in ports}
        self._avoided_until_s = dict.fromkeys(ports, 0.0)

    async def exchange(self, request: bytes) -> Reply:
        """Send a request and return the response. Raises ``NoReplyError``."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connect()
                reply = await connection.exchange(request)
        except TimeoutError:
            if connection is not None:
                connection.close()
            raise NoReplyError(f"no response within {PATIENCE_S:g} s", connection.port if connection else 0) from None
        if reply.is_last:
            connection.close()
        else:
            self._idle[connection.port].append(connection)
        return reply

    def close(self) -> None:
        """Close all idle connections."""
        for connection in itertools.chain.from_iterable(self._idle.values()):
            connection.close()

    async def _connect(self) -> Connection:
        """Return an idle connection to the next instance, or a new one."""
        for port in self._next_ports():
            while self._idle[port]:
                connection = self._idle[port].pop()
                if connection.is_usable:
                    return connection
                connection.close()
            try:
                return await _open(port)
            except OSError:
                self._avoided_until_s[port] = time.monotonic() + AVOIDED_S
        raise NoReplyError("every instance refuses connections", 0)

    def _next_ports(self) -> Iterator[int]:
        """Yield the instances in turn, those that may be down last."""
        ports = list(itertools.islice(self._turns, self._count))
        next(self._turns)  # the next request begins with the next instance
        now_s = time.monotonic()
        yield from sorted(ports, key=lambda port: self._avoided_until_s[port] > now_s)


async def _open(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(port), "127.0.0.1", port)
    return connection


def _read_reply(head: bytes, body: bytes) -> Reply:
    retry_after = _RETRY_AFTER.search(head)
    return Reply(
        status=int(head[9:12]),
        retry_after_s=int(retry_after[1]) if retry_after else None,
        body=body,
        is_last=_CLOSES.search(head) is not None,
    )
