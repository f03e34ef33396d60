"""Raw connections to an instance in this process, and what it answers on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from app.web.aiohttp_internals import LimitedServer
from app.web.connections import ConnectionTable
from app.web.shutdown import Runner
from tests.waiting import until

WITHIN_S: Final = 8.0
"""For what takes a fraction of a second on an idle machine. Every limit that a test does not set is longer."""
SHORT_S: Final = 0.2
LONG_S: Final = 60.0

GET: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HOLD: Final = b"POST /held HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE: Final = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
FORM: Final = b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
TOKEN: Final = FORM + b"Content-Length: 29\r\n\r\ngrant_type=client_credentials"


@dataclass
class Answered:
    """One answer, as it came over the socket."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        content: dict[str, Any] = json.loads(self.body)
        return content


@dataclass
class Client:
    """One connection to an instance."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        """Send something, without waiting."""
        self.writer.write(data)

    async def answer(self) -> Answered:
        """Read one answer."""
        async with asyncio.timeout(WITHIN_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = head.strip().split("\r\n")
            headers = dict(each.split(": ", 1) for each in rest)
            body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
            return Answered(first.split()[0], int(first.split()[1]), headers, body)

    async def until_closed(self) -> bytes:
        """Read until the instance closes the connection, and return what came."""
        async with asyncio.timeout(WITHIN_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def stop_reading(self) -> None:
        """Read nothing from now on."""
        transport: Any = self.writer.transport
        transport.pause_reading()

    async def close(self) -> None:
        """Close it, whatever is still to be sent."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    @property
    def is_open(self) -> bool:
        """Whether the instance has closed it, as far as is known here."""
        return not self.reader.at_eof()

    async def drip(self, data: bytes = b"x", every_s: float = 0.02) -> None:
        """Send a byte again and again, until the instance closes the connection."""
        while self.is_open and not self.writer.is_closing():
            self.send(data)
            await asyncio.sleep(every_s)


@dataclass
class Instance:
    """A running instance, and connections to it that are closed at its end."""

    runner: Runner
    release: asyncio.Event
    stack: AsyncExitStack
    waiting: int = 0

    @property
    def table(self) -> ConnectionTable:
        """Its connections."""
        assert isinstance(self.runner.server, LimitedServer)
        return self.runner.server.table

    async def connect(self, sent: bytes = b"", *, host: str = "127.0.0.1", receive_bytes: int | None = None) -> Client:
        """Open a connection from ``host``, and send something."""
        one = socket.socket()
        one.setblocking(False)  # noqa: FBT003
        if receive_bytes is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        one.bind((host, 0))
        await asyncio.get_running_loop().sock_connect(one, self.runner.addresses[0][:2])
        reader, writer = await asyncio.open_connection(sock=one, limit=receive_bytes or 2**16)
        client = Client(reader, writer)
        self.stack.push_async_callback(client.close)
        client.send(sent)
        return client

    async def until_open(self, count: int) -> None:
        """Wait until it has so many connections."""

        async def has() -> bool:
            return len(self.table) == count

        await until(has, f"{count} open connections", within_s=WITHIN_S)

    async def until_begun(self, count: int) -> None:
        """Wait until it has received a part of so many requests, and none of them whole."""

        async def has() -> bool:
            parts: Any = self.table._open
            return len([each for each in parts if each._has_sent or each._current_request is not None]) == count

        await until(has, f"parts of {count} requests", within_s=WITHIN_S)

    async def hold(self, count: int, sent: bytes = HOLD, *, host: str = "127.0.0.1") -> list[Client]:
        """Open connections whose requests wait for their answers until ``release`` is set."""
        before = self.waiting
        clients = [await self.connect(sent, host=host) for _ in range(count)]

        async def has() -> bool:
            return self.waiting == before + count

        await until(has, f"{count} requests that wait", within_s=WITHIN_S)
        return clients

    def drip(self, client: Client, data: bytes = b"x") -> None:
        """Let a client drip in the background."""
        task = asyncio.create_task(client.drip(data))
        self.stack.callback(task.cancel)


Start = Callable[..., Awaitable[Instance]]


def check_refused(answer: Answered, status: int, code: str) -> None:
    """Check that an answer has the form of all errors, and ends the connection."""
    assert (answer.status, answer.json["error"]) == (status, code)
    assert answer.version == "HTTP/1.0" or answer.headers["Connection"] == "close"
    assert answer.headers["Content-Type"].startswith("application/json")
    assert {"X-Request-ID", "X-Timestamp"} <= answer.headers.keys()
