"""Who is online (guide chapter 13), and CloseConnection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.sandbox.caller import Caller
from tests.sandbox.device import Device, eventually

Connect = Callable[..., Awaitable[Device]]


@pytest.fixture
async def password(cloud: Caller) -> str:
    """A password that reads and writes ``a/#``."""
    return f"RW|{await cloud.token('R,W', 'a/#')}"


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
    """Who was refused is not online, and an ID that no client could have is not either."""
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
    for _ in range(2):  # the second time nobody is there any more
        reply = await cloud.call("CloseConnection", ClientId="GID_plant@@@d1")
        assert (reply.status, reply.json["Success"]) == (200, True)
        assert not await is_online(cloud, "GID_plant@@@d1")
    await device.cut()
    await witness.got(b"closed")
    assert not witness.over
    back = await connect(password, clean=False)
    assert (back.code, back.session_present) == (0, True)
