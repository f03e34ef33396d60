"""A connection's bytes: reading with a deadline that can be cut short, writing within a bound, closing with grace."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from app.sandbox.framing import Frame, read_frame

LINGER_S: Final = 1.0
"""How long a peer may take to read the last words and close."""

MAX_OUTBOUND_BYTES: Final = 4 * 1024 * 1024
"""What may wait for a peer to read it; a slower one is cut, so that nobody can fill the broker's memory."""


class Woken(Exception):
    """The connection was ended from this side."""


class Wire:
    """One TCP connection, read by one task and written to by many."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._reading: asyncio.Timeout | None = None
        self._awake = False

    async def read(self, deadline_s: float | None) -> Frame:
        """Read one packet's bytes.

        Raises ``TimeoutError`` after ``deadline_s``, ``Woken`` after ``wake``, ``asyncio.IncompleteReadError`` and
        ``OSError`` when the connection is lost, ``Malformed`` for bytes that are no packet.
        """
        try:
            async with asyncio.timeout(0 if self._awake else deadline_s) as self._reading:
                frame = await read_frame(self._reader)
        except TimeoutError:
            if self._awake:
                raise Woken from None
            raise
        finally:
            self._reading = None
        if self._awake:
            raise Woken  # a packet that came too late to count
        return frame

    def wake(self) -> None:
        """Make the reading task stop reading, now and for good; nothing is sent after this."""
        self._awake = True
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)

    def send(self, data: bytes) -> None:
        """Send, or drop the connection if too much waits already; its reader then sees the end of the stream."""
        transport = self._writer.transport
        if self._awake or transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(data) > MAX_OUTBOUND_BYTES:
            transport.abort()
            return
        self._writer.write(data)

    def abort(self) -> None:
        """Drop the connection, with what waits to be sent."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close so that the last words arrive: closing over unread bytes would make TCP throw them away."""
        try:
            async with asyncio.timeout(LINGER_S):
                if not self._writer.transport.is_closing():
                    self._writer.write_eof()
                while await self._reader.read(MAX_OUTBOUND_BYTES):
                    pass
        except (TimeoutError, OSError):
            pass
        finally:
            self._writer.transport.abort()
            with suppress(OSError):
                await self._writer.wait_closed()
