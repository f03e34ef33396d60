"""SendMessage (guide chapter 12) with point-to-point topics, session queries (chapter 13) and CloseConnection."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest

from tests.sandbox.caller import Caller
from tests.sandbox.device import Device, eventually

Connect = Callable[..., Awaitable[Device]]

ADDRESS = "a/p2p/GID_plant@@@d1"


@pytest.fixture
async def password(cloud: Caller) -> str:
    """A password that reads and writes ``a/#``."""
    return f"RW|{await cloud.token('R,W', 'a/#')}"


async def send(cloud: Caller, topic: str, payload: str) -> str:
    """Send a message, which must be accepted; return its ID."""
    reply = await cloud.call("SendMessage", MqttTopic=topic, Payload=payload)
    assert reply.code == "OK", reply.text
    return str(reply.json["MsgId"])


async def test_a_message_reaches_subscribers(cloud: Caller, connect: Connect, password: str) -> None:
    """A message arrives at each subscriber as UTF-8, with QoS 1 or a subscription's lower one; IDs are never equal."""
    one, other = await connect(password), await connect(password, "GID_plant@@@other")
    await one.subscribe("a/#", 1)
    await other.subscribe("a/x", 0)
    texts = ["test", "日本 é \U0001f600", "a+b%2Bc&d=e\n\0\t\\\"'<>", " ", "x" * 65536]
    ids = [await send(cloud, "a/x", text) for text in texts]
    assert len(set(ids)) == len(texts)
    assert all(re.fullmatch("[0-9A-F]{32}", msg_id) for msg_id in ids)
    for device, qos in ((one, 1), (other, 0)):
        await device.got(texts[-1].encode())
        assert device.messages == [("a/x", text.encode(), qos, False) for text in texts]


async def test_a_message_waits_for_an_absent_client(cloud: Caller, connect: Connect, password: str) -> None:
    """An absent client with a session and a QoS 1 subscription gets it when it reconnects."""
    device = await connect(password, clean=False)
    await device.subscribe("a/one", 1)
    await device.subscribe("a/nought", 0)
    await device.close()
    for topic in ("a/nought", "a/one", "a/other"):
        await send(cloud, topic, topic)
    back = await connect(password, clean=False)
    await back.got(b"a/one")
    await send(cloud, "a/one", "end")
    await back.got(b"end")
    assert back.payloads()[-2:] == [b"a/one", b"end"]
    assert b"a/other" not in back.payloads()


async def test_a_message_is_delivered_only_where_it_may_be_read(cloud: Caller, connect: Connect) -> None:
    """A subscriber does not get what its token no longer permits."""
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#')}")
    await device.subscribe("a/#", 1)
    assert await device.upload("RW", await cloud.token("R,W", "a/public"))
    await send(cloud, "a/secret", "secret")
    await send(cloud, "a/public", "public")
    await device.got(b"public")
    assert device.payloads() == [b"public"]


@pytest.mark.parametrize("sender", ["action", "device"])
async def test_point_to_point(cloud: Caller, connect: Connect, password: str, sender: str) -> None:
    """PARENT/p2p/CLIENT reaches that client without a subscription or resource, and no other subscriber."""

    async def say(topic: str, text: str) -> None:
        if sender == "action":
            await send(cloud, topic, text)
        else:
            assert await speaker.publish(topic, text, 2, retain=True)

    speaker = await connect(password, "GID_plant@@@speaker")
    nosy = await connect(password, "GID_plant@@@nosy")
    assert await nosy.subscribe("a/#", 1) == [1]
    assert await nosy.subscribe(ADDRESS, 1) == [1]
    device = await connect(f"W|{await cloud.token('W', 'b/up')}")
    await say(ADDRESS, "for you")
    assert await device.got(b"for you") == (ADDRESS, b"for you", 1, False)
    for topic in ("a/p2p/GID_plant@@@absent", "a/p2p/GID_plant@@@d1/more", "a/P2P/GID_plant@@@d1", "a/b/p2p"):
        await say(topic, topic)
    await say("a/x", "end")
    await nosy.got(b"end")
    assert nosy.payloads() == [b"a/p2p/GID_plant@@@d1/more", b"a/P2P/GID_plant@@@d1", b"a/b/p2p", b"end"]
    assert device.payloads() == [b"for you"]
    late = await connect(password, "GID_plant@@@late")
    await late.subscribe("a/p2p/#", 1)
    await say("a/p2p/GID_plant@@@late", "last")
    await late.got(b"last")
    assert ADDRESS not in [topic for topic, *_ in late.messages]


async def test_a_point_to_point_message_waits_for_an_absent_client(
    cloud: Caller, connect: Connect, password: str
) -> None:
    """An absent client with a session gets it when it reconnects, once; without a session it is lost."""
    other = "a/p2p/GID_plant@@@d2"
    device = await connect(password, clean=False)
    await device.close()
    clean = await connect(password, "GID_plant@@@d2")
    await clean.close()
    await clean.cut()
    await send(cloud, ADDRESS, "waits")
    await send(cloud, other, "lost")
    back = await connect(f"R|{await cloud.token('R', 'b/#')}", clean=False)
    assert (await back.got(b"waits"))[0] == ADDRESS
    again = await connect(password, "GID_plant@@@d2")
    await send(cloud, other, "end")
    await again.got(b"end")
    assert again.payloads() == [b"end"]


async def test_point_to_point_needs_the_right_to_publish(cloud: Caller, connect: Connect) -> None:
    """A device whose token does not cover the topic is disconnected, and nothing is delivered."""
    device = await connect(f"R|{await cloud.token('R', 'b/#')}")
    stranger = await connect(f"W|{await cloud.token('W', 'a/up/#')}", "GID_plant@@@stranger")
    assert not await stranger.publish(ADDRESS, "denied")
    assert stranger.notices() == [{"code": 4, "type": "W"}]
    await send(cloud, ADDRESS, "end")
    await device.got(b"end")
    assert device.payloads() == [b"end"]


async def test_point_to_point_needs_a_valid_sign_in(cloud: Caller, connect: Connect, password: str) -> None:
    """A message that waits for a client is not delivered until the client signs in with valid tokens."""
    token = await cloud.token("R", "b/#")
    device = await connect(f"R|{token}", clean=False)
    await cloud.revoke(token)
    await device.cut()
    await send(cloud, ADDRESS, "waits")
    assert (await connect(f"R|{token}", clean=False)).code != 0
    assert device.payloads() == []
    back = await connect(password, clean=False)
    await back.got(b"waits")


async def is_online(cloud: Caller, client_id: str) -> bool:
    """Ask for one."""
    reply = await cloud.call("QuerySessionByClientId", ClientId=client_id)
    assert reply.code == "OK", reply.text
    return bool(reply.json["OnlineStatus"])


async def test_online_is_connected_now(cloud: Caller, connect: Connect, password: str) -> None:
    """A client is online from its CONNACK to the end of its connection, with a session left behind or without."""
    for clean in (True, False):
        assert not await is_online(cloud, "GID_plant@@@d1")
        device = await connect(password, clean=clean)
        assert await is_online(cloud, "GID_plant@@@d1")
        await device.close()

        async def is_off() -> bool:
            return not await is_online(cloud, "GID_plant@@@d1")

        await eventually(is_off)


async def test_a_refused_client_is_not_online(cloud: Caller, connect: Connect) -> None:
    """A refused client is not online, and neither is an ID that no client can have."""
    await connect("R|forged")
    for client_id in ("GID_plant@@@d1", "GID_unknown@@@d1", "anything at all", "GID_test@0001"):
        assert not await is_online(cloud, client_id)


async def test_a_batch_is_answered_as_asked(cloud: Caller, connect: Connect, password: str) -> None:
    """The answer has the order of the numbers, repeats what is repeated, and does not mind holes; ten are allowed."""
    await connect(password, "GID_plant@@@on")
    asked = [f"GID_plant@@@{name}" for name in ("z", "on", "a", "on", "b", "c", "d", "e", "f", "on")]
    numbered = {f"ClientIdList.{number}": name for number, name in enumerate(asked, 1)}
    reply = await cloud.call("BatchQuerySessionByClientIds", **dict(reversed(numbered.items())))
    expected = [{"ClientId": name, "OnlineStatus": name.endswith("on")} for name in asked]
    assert reply.json["OnlineStatusList"] == expected
    holes = await cloud.call("BatchQuerySessionByClientIds", **{"ClientIdList.7": asked[1], "ClientIdList.3": asked[0]})
    assert holes.json["OnlineStatusList"] == expected[:2]


async def test_close_connection(cloud: Caller, connect: Connect, password: str) -> None:
    """It ends that connection alone, at once; session and will are as for any connection lost, and it may come back."""
    witness = await connect(password, "GID_plant@@@witness")
    await witness.subscribe("a/#", 1)
    device = await connect(password, clean=False, will=("a/will", "closed"))
    for _ in range(2):  # the second time the client is offline
        reply = await cloud.call("CloseConnection", ClientId="GID_plant@@@d1")
        assert (reply.status, reply.json["Success"]) == (200, True)
        assert not await is_online(cloud, "GID_plant@@@d1")
    await device.cut()
    await witness.got(b"closed")
    assert not witness.over
    back = await connect(password, clean=False)
    assert (back.code, back.session_present) == (0, True)
