"""One connection: keep-alive, wills, QoS 2, and the notice before its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from app.sandbox import connection
from tests.sandbox.caller import Caller
from tests.sandbox.device import Device
from tests.sandbox.raw import Raw, packet, text

Connect = Callable[..., Awaitable[Device]]
Open = Callable[[], Awaitable[Raw]]


@pytest.fixture
async def password(cloud: Caller) -> str:
    """A password that reads and writes ``a/#``."""
    return f"RW|{await cloud.token('R,W', 'a/#')}"


async def test_a_silent_connection_is_closed(raw: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a complete CONNECT is closed at the deadline."""
    monkeypatch.setattr(connection, "CONNECT_DEADLINE_S", 0.1)
    silent, slow = await raw(), await raw()
    await slow.send(b"\x10\x7f\x00")
    assert await silent.rest() == b""
    assert await slow.rest() == b""


async def test_keep_alive(raw: Open, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent client is disconnected after 1.5 times its keep-alive; with a longer one or none it is not."""
    assert connection.KEEP_ALIVE_FACTOR == 1.5
    monkeypatch.setattr(connection, "KEEP_ALIVE_FACTOR", 0.1)
    silent, patient, endless = await raw(), await raw(), await raw()
    await silent.sign_in("GID_plant@@@silent", password, keep_alive_s=1)
    await patient.sign_in("GID_plant@@@patient", password, keep_alive_s=60_000)
    await endless.sign_in("GID_plant@@@endless", password, keep_alive_s=0)
    assert await silent.rest() == b""
    for alive in (patient, endless):
        await alive.send(b"\xc0\x00")
        assert await alive.read(2) == b"\xd0\x00"


async def witness_of(connect: Connect, password: str) -> Device:
    """Return a subscriber to everything under ``a``."""
    witness = await connect(password, "GID_plant@@@witness")
    assert await witness.subscribe("a/#", 1) == [1]
    return witness


async def test_a_will_is_published(connect: Connect, password: str) -> None:
    """The will of a client that vanishes is published; that of one that says DISCONNECT is not."""
    witness = await witness_of(connect, password)
    polite = await connect(password, "GID_plant@@@polite", will=("a/will", "polite"))
    await polite.close()
    vanished = await connect(password, "GID_plant@@@vanished", will=("a/will", "vanished"))
    await vanished.close(goodbye=False)
    await witness.got(b"vanished")
    assert witness.payloads() == [b"vanished"]


async def test_the_will_of_a_denied_client_is_published(cloud: Caller, connect: Connect, password: str) -> None:
    """The will of a client that is disconnected for a denied publish is published, if its tokens permit that."""
    witness = await witness_of(connect, password)
    device = await connect(password, will=("a/will", "cut"))
    assert not await device.publish("b/denied")
    await witness.got(b"cut")


async def test_the_will_of_a_revoked_token_is_not_published(cloud: Caller, connect: Connect, password: str) -> None:
    """A will is authorized again when it is published: with a revoked token it is not."""
    witness = await witness_of(connect, password)
    token = await cloud.token("W", "a/#")
    device = await connect(f"W|{token}", will=("a/will", "from beyond"))
    await cloud.revoke(token)
    await device.cut()
    other = await connect(password, "GID_plant@@@other", will=("a/will", "second"))
    await other.close(goodbye=False)
    await witness.got(b"second")
    assert witness.payloads() == [b"second"]


async def test_the_will_after_an_upload(cloud: Caller, connect: Connect, password: str) -> None:
    """A will that the latest tokens do not permit is not published."""
    witness = await witness_of(connect, password)
    device = await connect(password, will=("a/will", "no longer permitted"))
    assert await device.upload("RW", await cloud.token("R,W", "b/#"))
    await device.close(goodbye=False)
    other = await connect(password, "GID_plant@@@other", will=("a/will", "second"))
    await other.close(goodbye=False)
    await witness.got(b"second")
    assert witness.payloads() == [b"second"]


async def test_exactly_once(raw: Open, connect: Connect, password: str) -> None:
    """A QoS 2 message sent twice under one packet ID is routed once; after PUBREL the ID is free for another."""
    witness = await witness_of(connect, password)
    socket = await raw()
    await socket.sign_in("GID_plant@@@raw", password)
    publish, again = packet(0x34, text("a/x") + b"\x00\x05one"), packet(0x3C, text("a/x") + b"\x00\x05one")
    await socket.send(publish + again + again)
    assert await socket.read(12) == b"\x50\x02\x00\x05" * 3
    await socket.send(packet(0x62, b"\x00\x05") * 2)
    assert await socket.read(8) == b"\x70\x02\x00\x05" * 2
    await socket.send(packet(0x34, text("a/x") + b"\x00\x05two"))
    await socket.read(4)
    await witness.got(b"two")
    assert witness.payloads() == [b"one", b"two"]


async def test_the_last_notice_is_received(cloud: Caller, raw: Open) -> None:
    """The notice is received completely, as the last bytes, also by a client that is still sending."""
    socket = await raw()
    await socket.sign_in("GID_plant@@@busy", f"W|{await cloud.token('W', 'a/#')}")
    await socket.send(packet(0x30, text("b/x") + b"x") + packet(0x32, text("a/x") + b"\x00\x01x") * 60_000)
    notice = packet(0x30, text("$SYS/tokenInvalidNotice") + b'{"code":4,"type":"W"}')
    assert await socket.rest() == notice


async def test_nothing_after_the_denied_packet_counts(
    cloud: Caller, raw: Open, connect: Connect, password: str
) -> None:
    """Packets that were sent behind a denied one are not carried out."""
    witness = await witness_of(connect, password)
    socket = await raw()
    await socket.sign_in("GID_plant@@@busy", password)
    await socket.send(packet(0x30, text("b/x") + b"x") + packet(0x30, text("a/x") + b"behind"))
    await socket.rest()
    assert await witness.publish("a/x", "end")
    await witness.got(b"end")
    assert witness.payloads() == [b"end"]


async def test_no_token_in_the_log(cloud: Caller, connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    """Connecting, uploading, being denied and refused are logged with the client ID, and never with a token."""
    tokens = [await cloud.token("R,W", "a/#") for _ in range(2)]
    device = await connect(f"RW|{tokens[0]}")
    assert await device.upload("RW", tokens[1])
    assert not await device.publish("b/x", tokens[1])
    await connect(f"RW|{tokens[0]}|X|{tokens[1]}")
    shown = "".join(capsys.readouterr())
    assert "GID_plant@@@d1" in shown
    assert not any(token[:20] in shown for token in tokens)
