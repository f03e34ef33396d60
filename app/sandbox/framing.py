"""MQTT packets as bytes: one packet read with a bound, and the version looked at before anything else.

Nothing here trusts the peer: this is what runs before a client has signed in.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from amqtt.mqtt.packet import CONNECT

MAX_PACKET_BYTES: Final = 68 * 1024
"""The cloud's messages end at 64 KiB; the rest is for the other fields."""

_LENGTH_BYTES: Final = 4
_MQTT: Final = b"\x00\x04MQTT"
_MQISDP: Final = b"\x00\x06MQIsdp"
_V311: Final = 4
_V5: Final = 5
_REFUSE_VERSION: Final = b"\x20\x02\x00\x01"
_REFUSE_VERSION_IN_V5: Final = b"\x20\x03\x00\x84\x00"
"""A CONNACK of MQTT 5 (its section 3.2): a v5 client cannot read one of 3.1.1."""


class Malformed(Exception):
    """A peer broke the protocol; the connection is closed (section 4.8)."""


class UnsupportedVersion(Exception):
    """A CONNECT of another MQTT version; ``connack`` is the answer its sender understands."""

    def __init__(self, connack: bytes) -> None:
        super().__init__("another MQTT version")
        self.connack = connack


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet as it came: the first byte and the remaining bytes."""

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


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one packet's bytes. Raises ``Malformed`` and ``asyncio.IncompleteReadError`` at the end of the stream."""
    first = (await reader.readexactly(1))[0]
    length = 0
    for position in range(_LENGTH_BYTES):
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << (7 * position)
        if not byte & 0x80:
            break
    else:
        raise Malformed("remaining length of more than four bytes")
    if length > MAX_PACKET_BYTES:
        # Refused before it is read: a peer that has not signed in yet must not choose how much memory it takes.
        raise Malformed("packet too large")
    return Frame(first, await reader.readexactly(length))


def check_version(frame: Frame) -> None:
    """Look at a CONNECT's protocol name and level in the raw bytes, before anything tries to understand the rest.

    Raises ``UnsupportedVersion`` and ``Malformed``.
    """
    if frame.kind != CONNECT or frame.flags:
        raise Malformed("the first packet is no CONNECT")
    for name in (_MQTT, _MQISDP):
        level = frame.body[len(name) : len(name) + 1]
        if frame.body.startswith(name) and level:
            if name == _MQTT and level[0] == _V311:
                return
            in_v5 = name == _MQTT and level[0] == _V5
            raise UnsupportedVersion(_REFUSE_VERSION_IN_V5 if in_v5 else _REFUSE_VERSION)
    raise Malformed("protocol name is not MQTT")
