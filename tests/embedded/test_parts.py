"""The parts of `dev`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from app.embedded import parts
from tests import processes


async def test_a_port_is_free_or_busy() -> None:
    """A port with a listener is in use; one with only closing connections of an earlier server is free."""
    with socket.create_server((parts.HOST, 0)) as server:
        port = server.getsockname()[1]
        assert not await parts.is_free(port, within_s=0)
        with socket.create_connection((parts.HOST, port)):
            server.accept()[0].close()
    assert await parts.is_free(port, within_s=0)


async def test_a_port_that_is_about_to_be_free() -> None:
    """A server that was just killed may hold its port for a moment longer."""
    with socket.create_server((parts.HOST, 0)) as server:
        port = server.getsockname()[1]
        asyncio.get_running_loop().call_later(0.1, server.close)
        assert await parts.is_free(port, within_s=5)


async def test_only_200_is_an_answer(tmp_path: Path) -> None:
    """An instance answers once it is ready: neither a closed port, nor silence, nor 503 count."""
    [port] = processes.free_ports()
    instance = parts.instance_part(_with_logs(tmp_path), {}, number=0, port=port)
    assert not await instance.answers()
    replies = [b"", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"GET /readyz HTTP/1.1\r\n"
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replies.pop(0))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, parts.HOST, port):
        assert [await instance.answers() for _ in range(3)] == [False, False, True]


def _with_logs(state: Path) -> Path:
    (state / "logs").mkdir()
    return state
