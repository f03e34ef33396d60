"""Packets are handled without a connection: what they change in the session, and which bytes answer them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.sandbox.access import AccessDenied, KeyAccess, ParentTopics
from app.sandbox.broker import MqttBroker
from app.sandbox.packet_handler import ClientDisconnected, PacketHandler
from app.sandbox.packet_stream import MalformedPacket
from app.sandbox.packets import (
    Connect,
    Disconnect,
    Message,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from app.sandbox.session import MqttSession
from app.sandbox.state import SandboxClock, SandboxState


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SandboxState]:
    """An empty state."""
    opened = await SandboxState.open(tmp_path / "sandbox.db")
    yield opened
    await opened.close()


@pytest.fixture
def session() -> MqttSession:
    """The session of a client."""
    return MqttSession("GID_plant@@@d1")


@pytest.fixture
def sent() -> list[bytes]:
    """What the handler has sent."""
    return []


@pytest.fixture
def handler(state: SandboxState, session: MqttSession, sent: list[bytes]) -> PacketHandler:
    """The handler of a client that signed in with a key, where only the parent topic ``a`` exists."""
    access = KeyAccess(ParentTopics.parse_names(["a"]), lambda: True)
    return PacketHandler(MqttBroker(state, SandboxClock()), session, access, send=sent.append)


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (Pingreq(), [b"\xd0\x00"]),
        (Publish(Message("a/x", b"p"), 0), []),
        (Publish(Message("a/x", b"p", 1), 7), [b"\x40\x02\x00\x07"]),
        (Publish(Message("a/x", b"p", 2), 7), [b"\x50\x02\x00\x07"]),
        (Pubrel(7), [b"\x70\x02\x00\x07"]),
        (Puback(7), []),
        (Subscribe(7, (("a/x", 2), ("a/+", 0))), [b"\x90\x04\x00\x07\x01\x00"]),
        (Unsubscribe(7, ("a/x",)), [b"\xb0\x02\x00\x07"]),
    ],
)
async def test_answers(handler: PacketHandler, sent: list[bytes], packet: Packet, answer: list[bytes]) -> None:
    """Each packet has the answer of its section of the standard, or none."""
    await handler.handle(packet)
    assert sent == answer


async def test_subscriptions_are_in_the_session(handler: PacketHandler, session: MqttSession) -> None:
    """SUBSCRIBE adds filters with the granted QoS, UNSUBSCRIBE removes them."""
    await handler.handle(Subscribe(7, (("a/x", 2), ("a/+", 0))))
    assert session.subscriptions == {"a/x": 1, "a/+": 0}
    await handler.handle(Unsubscribe(8, ("a/x", "a/unknown")))
    assert session.subscriptions == {"a/+": 0}


async def test_a_repeated_qos_2_message_is_known(handler: PacketHandler, session: MqttSession) -> None:
    """The packet ID of a QoS 2 message is kept until it is released (section 4.3.3)."""
    await handler.handle(Publish(Message("a/x", b"p", 2), 7))
    assert session.received == {7}
    await handler.handle(Pubrel(7))
    assert session.received == set()


@pytest.mark.parametrize(
    "packet",
    [
        Publish(Message("b/x", b"p", 1), 7),
        Publish(Message("$SYS/uploadToken", b'{"type": "R", "token": "t"}', 1), 7),
        Subscribe(7, (("a/x", 0), ("#", 0))),
    ],
)
async def test_a_denied_packet_changes_nothing(
    handler: PacketHandler, session: MqttSession, sent: list[bytes], packet: Packet
) -> None:
    """A denied packet raises ``AccessDenied``, changes nothing and gets no acknowledgment."""
    with pytest.raises(AccessDenied):
        await handler.handle(packet)
    assert (sent, session.subscriptions, session.received) == ([], {}, set())


async def test_packets_that_end_the_connection(handler: PacketHandler) -> None:
    """DISCONNECT ends the connection; a second CONNECT is a violation of the protocol."""
    with pytest.raises(ClientDisconnected):
        await handler.handle(Disconnect())
    with pytest.raises(MalformedPacket):
        await handler.handle(
            Connect(
                client_id="GID_plant@@@d1", clean_session=True, keep_alive_s=60, username=None, password=None, will=None
            )
        )
