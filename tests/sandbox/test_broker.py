"""Sessions, routing, take-over and retained messages, with real MQTT clients."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import pytest

from app.sandbox import broker, packet_stream, session
from tests.sandbox.caller import Caller
from tests.sandbox.device import Device, eventually
from tests.sandbox.raw import Raw, packet, text

Connect = Callable[..., Awaitable[Device]]
ALL = "a/#"


@pytest.fixture
async def password(cloud: Caller) -> str:
    """A password that reads and writes ``a/#``."""
    return f"RW|{await cloud.token('R,W', ALL)}"


async def test_qos(connect: Connect, password: str) -> None:
    """Messages arrive once, with the lower of both QoS and never above 1, in order."""
    device = await connect(password)
    for asked, granted in ((0, 0), (1, 1), (2, 1)):
        assert await device.subscribe(f"a/{asked}", asked) == [granted]
    for sent in (0, 1, 2):
        for asked in (0, 1, 2):
            assert await device.publish(f"a/{asked}", f"{sent}{asked}", sent)
    await device.got(b"22")
    expected = [(f"a/{a}", f"{s}{a}".encode(), min(s, a, 1), False) for s in (0, 1, 2) for a in (0, 1, 2)]
    assert device.messages == expected


async def test_overlapping_subscriptions(connect: Connect, password: str) -> None:
    """A message that several of a client's filters match is delivered once, with the highest QoS granted."""
    device = await connect(password)
    for wide, qos in ((ALL, 0), ("a/+", 1), ("a/x", 0)):
        await device.subscribe(wide, qos)
    assert await device.publish("a/x", "once")
    assert await device.publish("a/x", "last")
    await device.got(b"last")
    assert device.messages == [("a/x", b"once", 1, False), ("a/x", b"last", 1, False)]


async def test_unsubscribe(connect: Connect, password: str) -> None:
    """After UNSUBACK nothing of that filter arrives; a filter subscribed to again has its new QoS."""
    device = await connect(password)
    await device.subscribe("a/x", 1)
    await device.subscribe("a/y", 1)
    await device.subscribe("a/y", 0)
    _, mid = device.client.unsubscribe("a/x")
    await eventually(lambda: mid in device.unsubscribed)
    assert await device.publish("a/x", "no")
    assert await device.publish("a/y", "yes")
    assert (await device.got(b"yes"))[2] == 0
    assert device.payloads() == [b"yes"]


async def test_thirty_subscriptions(connect: Connect, password: str) -> None:
    """A client holds 30 subscriptions; the next is refused by its SUBACK code, and the connection goes on."""
    device = await connect(password)
    for number in range(30):
        assert await device.subscribe(f"a/{number}") == [0]
    assert await device.subscribe("a/30") == [0x80]
    assert await device.subscribe("a/0", 1) == [1]
    assert await device.publish("a/30", "not subscribed")
    assert await device.publish("a/0", "subscribed")
    await device.got(b"subscribed")
    assert device.payloads() == [b"subscribed"]


async def test_take_over(connect: Connect, password: str) -> None:
    """A client with valid tokens takes over the client ID: the old connection ends before the new one starts."""
    old = await connect(password)
    new = await connect(password)
    assert new.code == 0
    await old.cut()
    assert old.notices() == []
    assert await new.publish("a/x")


async def test_a_session_is_resumed(cloud: Caller, connect: Connect, password: str) -> None:
    """With clean_session=0 subscriptions last, and QoS 1 messages wait; what QoS 0 missed is gone."""
    device = await connect(password, clean=False)
    assert not device.session_present
    await device.subscribe(ALL, 1)
    await device.close()
    other = await connect(password, "GID_plant@@@other")
    for qos in (0, 1, 2):
        assert await other.publish("a/x", f"away {qos}", qos)
    assert await other.publish("a/x", "end")
    back = await connect(password, clean=False)
    assert back.session_present
    await back.got(b"end")
    assert back.payloads() == [b"away 1", b"away 2", b"end"]
    await back.close()
    again = await connect(password, clean=False)
    assert await again.publish("a/x", "only this")
    await again.got(b"only this")
    assert again.payloads() == [b"only this"]


async def test_a_clean_session_leaves_nothing(connect: Connect, password: str) -> None:
    """With clean_session=1 nothing is inherited, and nothing left behind."""
    for clean, present in ((False, False), (True, False), (False, False)):
        device = await connect(password, clean=clean)
        assert device.session_present is present
        assert await device.publish("a/x", "without a subscriber")
        assert await device.publish("a/x", "still without")
        assert device.payloads() == []
        await device.subscribe(ALL, 1)
        await device.close()


async def test_an_inherited_session_is_reduced_to_the_new_tokens(
    cloud: Caller, connect: Connect, password: str
) -> None:
    """A resumed session gets pending and new messages only if its new tokens permit them."""
    device = await connect(password, clean=False)
    await device.subscribe("a/secret", 1)
    await device.subscribe("a/public", 1)
    await device.close()
    other = await connect(password, "GID_plant@@@other")
    assert await other.publish("a/secret", "waited")
    assert await other.publish("a/public", "may pass")
    back = await connect(f"R|{await cloud.token('R', 'a/public')}", clean=False)
    assert back.session_present
    assert await other.publish("a/secret", "live")
    assert await other.publish("a/public", "end")
    await back.got(b"end")
    assert back.payloads() == [b"may pass", b"end"]
    assert await back.upload("R", await cloud.token("R", ALL))
    assert await other.publish("a/secret", "dropped for good")
    assert await other.publish("a/public", "end again")
    await back.got(b"end again")
    assert back.payloads() == [b"may pass", b"end", b"end again"]


async def test_unacknowledged_messages_come_again(
    cloud: Caller, raw: Callable[[], Awaitable[Raw]], connect: Connect, password: str
) -> None:
    """A QoS 1 message that was sent and not acknowledged comes again, marked as a duplicate, until it is."""
    socket = await raw()
    await socket.sign_in("GID_plant@@@raw", password, flags=0xC0)
    await socket.send(packet(0x82, b"\x00\x01" + text(ALL) + b"\x01"))
    assert (await socket.read(5))[-1] == 1
    other = await connect(password)
    assert await other.publish("a/x", "m")
    first = await socket.read(2 + 5 + 2 + 1)
    assert first[0] == 0x32
    await socket.close()
    for _ in range(2):
        socket = await raw()
        await socket.sign_in("GID_plant@@@raw", password, flags=0xC0)
        again = await socket.read(len(first))
        assert (again[0], again[1:]) == (0x3A, first[1:])
    await socket.send(packet(0x40, first[7:9]) + b"\xc0\x00")
    assert await socket.read(2) == b"\xd0\x00"
    await socket.close()
    socket = await raw()
    await socket.sign_in("GID_plant@@@raw", password, flags=0xC0)
    await socket.send(b"\xc0\x00")
    assert await socket.read(2) == b"\xd0\x00"


async def test_retained(cloud: Caller, connect: Connect, password: str) -> None:
    """A later subscriber gets the last retained message, marked as retained; an empty one deletes it."""
    device = await connect(password)
    await device.subscribe("a/live", 1)
    for topic, payload in (("a/r1", "old"), ("a/r1", "new"), ("a/r2", "two"), ("a/live", "live"), ("a/r2", "")):
        assert await device.publish(topic, payload, 1, retain=True)
    assert await device.got(b"live") == ("a/live", b"live", 1, False)
    late = await connect(password, "GID_plant@@@late")
    await late.subscribe("a/+", 1)
    await late.got(b"live")
    assert sorted(late.messages) == [("a/live", b"live", 1, True), ("a/r1", b"new", 1, True)]


async def test_retained_messages_are_not_leaked(cloud: Caller, connect: Connect, password: str) -> None:
    """A client gets no retained message for the subscriptions of others, or for connecting.

    amqtt's own broker sends a client that connects whatever matches the filter of any client.
    """
    owner = await connect(password, "GID_plant@@@owner")
    await owner.subscribe(ALL, 1)
    assert await owner.publish("a/secret", "secret", 1, retain=True)
    stranger = await connect(f"RW|{await cloud.token('R,W', 'b/#')}", "GID_plant@@@stranger")
    await stranger.subscribe("b/#", 1)
    await owner.subscribe("a/secret", 1)
    assert await stranger.publish("b/x", "end")
    await stranger.got(b"end")
    assert stranger.payloads() == [b"end"]


async def test_a_client_that_does_not_read_is_disconnected(
    cloud: Caller, raw: Callable[[], Awaitable[Raw]], connect: Connect, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscriber that stops reading is disconnected when its share of memory is used up; publishers are not."""
    monkeypatch.setattr(packet_stream, "MAX_OUTBOUND_BYTES", 128 * 1024)
    socket = await raw()
    await socket.sign_in("GID_plant@@@stuck", password, flags=0xC2)
    await socket.send(packet(0x82, b"\x00\x01" + text(ALL) + b"\x00"))
    await socket.read(5)
    other = await connect(password)
    for _ in range(200):
        assert await other.publish("a/x", bytes(60_000))
    received = await socket.rest()
    assert len(received) < 200 * 60_000


async def test_a_client_that_does_not_acknowledge_is_disconnected(
    raw: Callable[[], Awaitable[Raw]], connect: Connect, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscriber that reads and never acknowledges gets what may be pending, and is then disconnected."""
    monkeypatch.setattr(session, "MAX_PENDING", 3)
    socket = await raw()
    await socket.sign_in("GID_plant@@@mute", password, flags=0xC2)
    await socket.send(packet(0x82, b"\x00\x01" + text(ALL) + b"\x01"))
    await socket.read(5)
    other = await connect(password)
    for number in range(5):
        assert await other.publish("a/x", str(number))
    expected = [packet(0x32, text("a/x") + struct.pack("!H", number + 1) + b"%d" % number) for number in range(3)]
    assert await socket.rest() == b"".join(expected)


async def test_absent_sessions_are_bounded(connect: Connect, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many sessions of absent clients, the one absent longest is forgotten first."""
    monkeypatch.setattr(broker, "MAX_ABSENT_SESSIONS", 2)
    for name in ("one", "two", "three"):
        device = await connect(password, f"GID_plant@@@{name}", clean=False)
        await device.subscribe(ALL, 1)
        await device.close()
        await device.cut()
    present = {}
    for name in ("two", "three", "one"):
        device = await connect(password, f"GID_plant@@@{name}", clean=False)
        present[name] = device.session_present
    assert present == {"two": True, "three": True, "one": False}
