"""Hostile bytes: the broker closes that one connection, logs it once, and serves everyone else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.sandbox.caller import Caller
from tests.sandbox.device import Device
from tests.sandbox.raw import Raw, connect, packet, text

Open = Callable[[], Awaitable[Raw]]
GOOD = connect("GID_plant@@@evil", "R|x")

FIRST_PACKETS = {
    "nothing of MQTT": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20 + b"\r\n",
    "zeros": bytes(64),
    "remaining length of five bytes": b"\x10\xff\xff\xff\xff\x01",
    "a quarter of a gigabyte announced": b"\x10\xff\xff\xff\x7f",
    "just over the limit": b"\x10\x81\xa0\x04",
    "flags on CONNECT": b"\x11" + GOOD[1:],
    "reserved flag": connect("GID_plant@@@evil", "x", flags=0xC3),
    "password without user name": packet(
        0x10, text("MQTT") + b"\x04\x42\x00\x3c" + text("GID_plant@@@evil") + text("x")
    ),
    "will QoS without will": connect("GID_plant@@@evil", "x", flags=0xD2),
    "will QoS 3": connect("GID_plant@@@evil", "x", flags=0xDE, will=text("a") + text("b")),
    "will topic with wildcard": connect("GID_plant@@@evil", "x", flags=0xC6, will=text("a/#") + text("b")),
    "will missing": packet(0x10, text("MQTT") + b"\x04\x06\x00\x3c" + text("GID_plant@@@evil")),
    "user name missing": packet(0x10, text("MQTT") + b"\x04\x82\x00\x3c" + text("GID_plant@@@evil")),
    "cut in the password": packet(0x10, GOOD[2:-2]),
    "bytes behind the end": packet(0x10, GOOD[2:] + b"more"),
    "client ID no UTF-8": connect(b"GID_plant@@@\xff\xfe", "x"),
    "client ID a surrogate": connect(b"GID_plant@@@\xed\xa0\x80", "x"),
    "NUL in the client ID": connect("GID_plant@@@\0", "x"),
    "another protocol name": connect("GID_plant@@@evil", "x", name=b"MQTX"),
    "empty CONNECT": b"\x10\x00",
    "PINGREQ first": b"\xc0\x00",
    "SUBSCRIBE first": packet(0x82, b"\x00\x01" + text("#") + b"\x00"),
    "PUBLISH first": packet(0x30, text("a/x") + b"x"),
}

LATER_PACKETS = {
    "a second CONNECT": GOOD,
    "SUBSCRIBE with flags 0": packet(0x80, b"\x00\x01" + text("a/x") + b"\x00"),
    "SUBSCRIBE with packet ID 0": packet(0x82, b"\x00\x00" + text("a/x") + b"\x00"),
    "SUBSCRIBE without filters": packet(0x82, b"\x00\x01"),
    "SUBSCRIBE with QoS 3": packet(0x82, b"\x00\x01" + text("a/x") + b"\x03"),
    "SUBSCRIBE with an empty filter": packet(0x82, b"\x00\x01" + text("") + b"\x00"),
    "SUBSCRIBE to a/#/b": packet(0x82, b"\x00\x01" + text("a/#/b") + b"\x00"),
    "SUBSCRIBE to a+": packet(0x82, b"\x00\x01" + text("a+") + b"\x00"),
    "SUBSCRIBE with NUL": packet(0x82, b"\x00\x01" + text("a/\0") + b"\x00"),
    "SUBSCRIBE no UTF-8": packet(0x82, b"\x00\x01" + text(b"a/\xc3\x28") + b"\x00"),
    "SUBSCRIBE cut short": packet(0x82, b"\x00\x01\x00\x09a/x"),
    "UNSUBSCRIBE with flags 0": packet(0xA0, b"\x00\x01" + text("a/x")),
    "UNSUBSCRIBE without filters": packet(0xA2, b"\x00\x01"),
    "PUBLISH with QoS 3": packet(0x36, text("a/x") + b"\x00\x01x"),
    "PUBLISH with QoS 0 as duplicate": packet(0x38, text("a/x") + b"x"),
    "PUBLISH with packet ID 0": packet(0x32, text("a/x") + b"\x00\x00x"),
    "PUBLISH to a wildcard": packet(0x30, text("a/+") + b"x"),
    "PUBLISH to nothing": packet(0x30, text("") + b"x"),
    "PUBLISH with NUL": packet(0x30, text("a/\0") + b"x"),
    "PUBLISH no UTF-8": packet(0x30, text(b"a/\xff") + b"x"),
    "PUBLISH cut in its topic": packet(0x30, b"\x00\x09a/x"),
    "PUBLISH cut in its packet ID": packet(0x32, text("a/x") + b"\x00"),
    "PUBACK with packet ID 0": packet(0x40, b"\x00\x00"),
    "PUBACK too long": packet(0x40, b"\x00\x01\x00"),
    "PUBREC": packet(0x50, b"\x00\x01"),
    "PUBREL with flags 0": packet(0x60, b"\x00\x01"),
    "PUBCOMP": packet(0x70, b"\x00\x01"),
    "CONNACK": packet(0x20, b"\x00\x00"),
    "SUBACK": packet(0x90, b"\x00\x01\x00"),
    "PINGRESP": b"\xd0\x00",
    "PINGREQ with a body": packet(0xC0, b"x"),
    "PINGREQ with flags": b"\xc1\x00",
    "DISCONNECT with a body": packet(0xE0, b"x"),
    "reserved type 0": b"\x00\x00",
    "reserved type 15": b"\xf0\x00",
    "a megabyte announced": b"\x30\x80\x80\x40",
}


@pytest.fixture
async def witness(cloud: Caller, connect: Callable[..., Awaitable[Device]], caplog: pytest.LogCaptureFixture) -> Device:
    """A well-behaved client."""
    caplog.set_level(logging.DEBUG)
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#')}", "GID_plant@@@witness")
    assert await device.subscribe("a/#", 1) == [1]
    return device


async def require_unharmed(witness: Device, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that the witness is still served, that it got no other message, and that asyncio logged no error."""
    assert await witness.publish("a/alive", "alive")
    assert await witness.got(b"alive")
    assert witness.payloads() == [b"alive"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def reasons(logged: list[EventDict]) -> list[str]:
    """Return the kinds of reasons for which connections ended."""
    assert {entry["event"] for entry in logged} == {"connection_ended"}
    return [entry["reason"].partition(":")[0] for entry in logged]


@pytest.mark.parametrize("name", FIRST_PACKETS)
async def test_first_packets(raw: Open, witness: Device, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A first packet that is not a valid CONNECT closes the connection without an answer."""
    socket = await raw()
    with capture_logs() as logged:
        await socket.send(FIRST_PACKETS[name])
        assert await socket.rest() == b""
    assert reasons(logged) == ["malformed"]
    await require_unharmed(witness, caplog)


@pytest.mark.parametrize("name", LATER_PACKETS)
async def test_later_packets(
    cloud: Caller, raw: Open, witness: Device, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed packet, or one that a client may not send, closes the connection and has no effect."""
    socket = await raw()
    await socket.sign_in("GID_plant@@@evil", f"RW|{await cloud.token('R,W', 'a/#')}")
    with capture_logs() as logged:
        await socket.send(LATER_PACKETS[name])
        assert await socket.rest() == b""
    assert reasons(logged) == ["malformed"]
    await require_unharmed(witness, caplog)


@pytest.mark.parametrize(
    ("name", "level", "answer"),
    [
        (b"MQTT", 5, b"\x20\x03\x00\x84\x00"),
        (b"MQTT", 3, b"\x20\x02\x00\x01"),
        (b"MQTT", 6, b"\x20\x02\x00\x01"),
        (b"MQTT", 0x84, b"\x20\x02\x00\x01"),
        (b"MQIsdp", 3, b"\x20\x02\x00\x01"),
    ],
)
async def test_versions(raw: Open, name: bytes, level: int, answer: bytes) -> None:
    """Other versions are refused in bytes that they understand, whatever follows: properties are not parsed."""
    socket = await raw()
    await socket.send(packet(0x10, text(name) + bytes([level, 0xC2]) + b"\x00\x3c\x05\x11\x00\x00\x00\x0a\xff\xff"))
    assert await socket.rest() == answer


async def test_byte_by_byte(cloud: Caller, raw: Open) -> None:
    """A CONNECT that arrives in single bytes is one CONNECT."""
    socket = await raw()
    for byte in connect("GID_plant@@@slow", f"R|{await cloud.token('R', 'a/#')}"):
        await socket.send(bytes([byte]))
    assert await socket.read(4) == b"\x20\x02\x00\x00"


async def test_many_packets_in_one_write(cloud: Caller, raw: Open) -> None:
    """Packets that arrive together are answered in their order."""
    socket = await raw()
    whole = connect("GID_plant@@@fast", f"RW|{await cloud.token('R,W', 'a/#')}")
    whole += packet(0x82, b"\x00\x07" + text("a/x") + b"\x02") + packet(0x32, text("a/y") + b"\x00\x08hi") + b"\xc0\x00"
    await socket.send(whole)
    assert await socket.read(4 + 5 + 4 + 2) == (b"\x20\x02\x00\x00\x90\x03\x00\x07\x01\x40\x02\x00\x08\xd0\x00")
