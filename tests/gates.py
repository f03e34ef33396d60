"""A gate before the cloud, as a test steers it: what goes through it reaches the cloud, or nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from app.tasks import end

HOST = "127.0.0.1"

GateState = Literal["open", "refusing", "dropping", "hanging"]


class Gate:
    """A TCP port in front of another one.

    ``refusing``: no connection can be made. ``dropping``: what is sent is read, and the connection closed without an
    answer, as for a blocked address. ``hanging``: it stays open without an answer.
    """

    def __init__(self, target_port: int) -> None:
        self.state: GateState = "open"
        self.port = 0
        self.calls: list[float] = []
        """When requests came that got no answer, in loop time."""
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The endpoint of the cloud, for an instance."""
        return f"http://{HOST}:{self.port}"

    async def become(self, state: GateState) -> None:
        """Change what happens from now on; connections that are open are lost, unless calls are to hang."""
        self.state = state
        if state != "hanging":
            await end(self._connections)
        if state == "refusing":
            await self.close()
        elif self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server:
            self._server.close()
            self._server = None
        await end(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                to_reader, to_writer = await asyncio.open_connection(HOST, self._target_port)
                back = asyncio.create_task(_copy(to_reader, writer))
                try:
                    await self._copy_requests(reader, to_writer)
                finally:
                    await end([back])
                    to_writer.close()
        finally:
            writer.close()

    async def _copy_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if self.state != "open":
                self.calls.append(asyncio.get_running_loop().time())
            if self.state == "dropping":
                return
            if self.state == "open":
                writer.write(data)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)


@asynccontextmanager
async def open_gate(target_port: int) -> AsyncIterator[Gate]:
    """A gate that is open."""
    gate = Gate(target_port)
    await gate.become("open")
    try:
        yield gate
    finally:
        await gate.close()
