"""The bytes of an MQTT connection: read packet by packet within bounds, and written within a bound.

Nothing here trusts the peer: this code runs before a client has signed in.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from amqtt.mqtt.packet import CONNECT

MAX_PACKET_BYTES: Final = 68 * 1024
"""The cloud's messages have at most 64 KiB; the rest is for the other fields."""

MAX_OUTBOUND_BYTES: Final = 4 * 1024 * 1024
"""Bytes that may wait for a peer to read them. A slower peer is disconnected: it must not fill the broker's memory."""

CLOSE_DEADLINE_S: Final = 1.0
"""Time for a peer to read what was sent last, and to close."""

_LENGTH_BYTES: Final = 4
_MQTT: Final = b"\x00\x04MQTT"
_MQISDP: Final = b"\x00\x06MQIsdp"
_V311: Final = 4
_V5: Final = 5
_REFUSE_VERSION: Final = b"\x20\x02\x00\x01"
_REFUSE_VERSION_IN_V5: Final = b"\x20\x03\x00\x84\x00"
"""A CONNACK of MQTT 5 (section 3.2 there): a client of version 5 cannot read one of 3.1.1."""


class MalformedPacket(Exception):
    """A peer broke the protocol; its connection is closed (section 4.8)."""


class UnsupportedVersion(Exception):
    """A CONNECT of another MQTT version; ``connack`` is an answer that its sender understands."""

    def __init__(self, connack: bytes) -> None:
        super().__init__("unsupported MQTT version")
        self.connack = connack


class ReadingStopped(Exception):
    """The connection was ended from this side."""


@dataclass(frozen=True, slots=True)
class PacketFrame:
    """One packet as it was received: the first byte, and the bytes after the remaining length."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        """The packet type (section 2.2.1)."""
        return self.first >> 4

    @property
    def flags(self) -> int:
        """The flags (section 2.2.2)."""
        return self.first & 0x0F


def check_version(frame: PacketFrame) -> None:
    """Check that a first packet is a CONNECT of MQTT 3.1.1, by its raw bytes: no parser sees another version.

    Raises ``UnsupportedVersion`` and ``MalformedPacket``.
    """
    if frame.kind != CONNECT or frame.flags:
        raise MalformedPacket("the first packet is not a CONNECT")
    for name in (_MQTT, _MQISDP):
        level = frame.body[len(name) : len(name) + 1]
        if frame.body.startswith(name) and level:
            if name == _MQTT and level[0] == _V311:
                return
            is_v5 = name == _MQTT and level[0] == _V5
            raise UnsupportedVersion(_REFUSE_VERSION_IN_V5 if is_v5 else _REFUSE_VERSION)
    raise MalformedPacket("the protocol name is not MQTT")


class PacketStream:
    """One TCP connection. One task reads it, and many write to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._reading: asyncio.Timeout | None = None
        self._is_stopped = False

    async def read_packet(self, deadline_s: float | None) -> PacketFrame:
        """Read the bytes of one packet.

        Raises ``TimeoutError`` after ``deadline_s``, ``ReadingStopped`` after ``stop_reading``,
        ``asyncio.IncompleteReadError`` and ``OSError`` when the connection is lost, ``MalformedPacket``.
        """
        try:
            async with asyncio.timeout(0 if self._is_stopped else deadline_s) as self._reading:
                frame = await _read_frame(self._reader)
        except TimeoutError:
            if self._is_stopped:
                raise ReadingStopped from None
            raise
        finally:
            self._reading = None
        if self._is_stopped:
            raise ReadingStopped  # the packet was received too late to count
        return frame

    def stop_reading(self) -> None:
        """Make the reading task stop, for good. Nothing is sent after this either."""
        self._is_stopped = True
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)

    def send(self, data: bytes) -> None:
        """Send bytes, or close the connection if too many wait already; its reader then sees the end of the stream."""
        transport = self._writer.transport
        if self._is_stopped or transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(data) > MAX_OUTBOUND_BYTES:
            transport.abort()
            return
        self._writer.write(data)

    def abort(self) -> None:
        """Close the connection at once; what waits to be sent is lost."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection so that what was sent last is received.

        The bytes that the peer still sends are read: TCP discards what was sent if it closes over unread bytes.
        """
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
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


async def _read_frame(reader: asyncio.StreamReader) -> PacketFrame:
    first = (await reader.readexactly(1))[0]
    length = 0
    for position in range(_LENGTH_BYTES):
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << (7 * position)
        if not byte & 0x80:
            break
    else:
        raise MalformedPacket("remaining length of more than four bytes")
    if length > MAX_PACKET_BYTES:
        # Attack: a peer that has not signed in announces a huge packet to use up memory. It is refused unread.
        raise MalformedPacket("packet too large")
    return PacketFrame(first, await reader.readexactly(length))
