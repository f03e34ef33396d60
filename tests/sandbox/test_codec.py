"""The codec decodes what it encodes, and raises one exception for any other bytes."""

from __future__ import annotations

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from app.sandbox import codec
from app.sandbox.packet_stream import MalformedPacket, PacketFrame
from app.sandbox.packets import Connect, Message, Packet, Publish, Subscribe
from tests.sandbox.raw import connect, text


def decode(data: bytes) -> object:
    """Decode a short packet."""
    return asyncio.run(codec.decode(PacketFrame(data[0], data[2:])))


@given(first=st.integers(0, 255), body=st.binary(max_size=60))
@example(first=0x10, body=text("MQTT") + b"\x04\xff\x00\x00")
@example(first=0x82, body=b"\x00\x01\x00")
def test_any_bytes(first: int, body: bytes) -> None:
    """Any bytes give a packet or ``MalformedPacket``, never another exception."""
    try:
        packet = asyncio.run(codec.decode(PacketFrame(first, body)))
    except MalformedPacket:
        return
    assert isinstance(packet, Packet)


@given(
    topic=st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20),
    payload=st.binary(max_size=30),
    qos=st.integers(0, 1),
)
def test_publish_round_trip(topic: str, payload: bytes, qos: int) -> None:
    """Each message that can be encoded decodes to itself."""
    message = Message(topic, payload, qos)
    assert decode(codec.encode_publish(message, 7 if qos else None)) == Publish(message, 7 if qos else 0)


def test_connect() -> None:
    """Every field of a CONNECT arrives, and its password is shown by no ``repr``."""
    packet = decode(connect("GID_plant@@@d1", "R|secret", flags=0xEE, will=text("a/will") + text(b"\xff\x00")))
    assert isinstance(packet, Connect)
    assert packet.will == Message("a/will", b"\xff\x00", 1, retain=True)
    assert (packet.client_id, packet.clean_session, packet.keep_alive_s) == ("GID_plant@@@d1", True, 60)
    assert packet.password is not None
    assert packet.password.reveal() == "R|secret"
    assert "secret" not in repr(packet)


def test_subscribe() -> None:
    """Filters keep their order and their QoS."""
    body = b"\x00\x09" + text("a/+") + b"\x02" + text("#") + b"\x00"
    assert asyncio.run(codec.decode(PacketFrame(0x82, body))) == Subscribe(9, (("a/+", 2), ("#", 0)))
