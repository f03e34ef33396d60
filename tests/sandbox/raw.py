"""A socket to the broker, for bytes that no well-behaved client sends."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Self


def text(value: str | bytes) -> bytes:
    """Return an MQTT string."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """Return a packet with its remaining length."""
    length, encoded = len(body), bytearray()
    while True:
        length, byte = length >> 7, length & 0x7F
        encoded.append(byte | (0x80 if length else 0))
        if not length:
            return bytes([first, *encoded]) + body


def connect(
    client_id: str | bytes,
    password: str = "",
    *,
    username: str = "Token|ak-one|post-cn-test",
    flags: int = 0xC2,
    keep_alive_s: int = 60,
    will: bytes = b"",
    name: bytes = b"MQTT",
    level: int = 4,
) -> bytes:
    """Return a CONNECT."""
    header = text(name) + bytes([level, flags]) + struct.pack("!H", keep_alive_s)
    return packet(0x10, header + text(client_id) + will + text(username) + text(password))


class Raw:
    """The socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to the broker's port."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, count: int) -> bytes:
        """Read so many bytes."""
        async with asyncio.timeout(10):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read until the broker closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def sign_in(self, client_id: str, password: str, **options: int) -> None:
        """Connect; that must be accepted."""
        await self.send(connect(client_id, password, **options))  # type: ignore[arg-type]
        assert (await self.read(4))[3] == 0

    async def close(self) -> None:
        """Close."""
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()
