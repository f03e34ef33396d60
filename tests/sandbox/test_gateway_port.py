"""A cloud that refuses connections, and accepts them again."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from app.sandbox.server import Sandbox, SandboxConfig, start_sandbox
from tests.sandbox.caller import Caller
from tests.sandbox.device import eventually

LONG_S = 300


@pytest.fixture
def config(config: SandboxConfig) -> SandboxConfig:
    """A sandbox with a control port."""
    return replace(config, control_port=0)


@pytest.fixture
async def control(sandbox: Sandbox) -> AsyncIterator[Caller]:
    """A caller of the control port; it has its own session, whose connections are not those of the API."""
    async with aiohttp.ClientSession() as session:
        yield Caller(session, f"http://127.0.0.1:{sandbox.control_port}")


async def test_connections_are_refused_until_the_port_is_opened(cloud: Caller, control: Caller) -> None:
    """While the port is closed no call connects, not over an existing connection either; an order opens it again."""
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"
    shown = await control.control("POST", "gateway", {"down_s": LONG_S})
    assert LONG_S - 5 < shown["closed_for_s"] <= LONG_S
    with pytest.raises(aiohttp.ClientError):  # perhaps over the connection of the first call, which is lost
        await cloud.call("QueryToken", Token="t")
    with pytest.raises(aiohttp.ClientConnectorError) as refused:
        await cloud.call("QueryToken", Token="t")
    assert refused.value.errno == errno.ECONNREFUSED
    assert await control.control("DELETE", "gateway") == {"closed_for_s": 0}
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"
    assert await control.control("GET", "calls") == {"QueryToken": {"OK": 2}}


async def test_the_port_opens_by_itself(cloud: Caller) -> None:
    """The order may come through the API's port, and is answered; after its time the port is open."""
    await cloud.control("POST", "gateway", {"down_s": 0.05})

    async def is_open() -> bool:
        try:
            return bool((await cloud.control("GET", "gateway"))["closed_for_s"] == 0)
        except aiohttp.ClientError:
            return False

    await eventually(is_open)
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"


async def test_a_call_under_way_loses_its_answer(cloud: Caller, control: Caller) -> None:
    """A call that is being carried out when the port closes takes effect, and its connection is lost."""
    await control.control("POST", "faults", {"action": "ApplyToken", "fault": "hold"})
    call = asyncio.create_task(cloud.token("R", "a/#"))

    async def is_held() -> bool:
        return bool((await control.control("GET", "faults"))["held"]["ApplyToken"])

    await eventually(is_held)
    await control.control("POST", "gateway", {"down_s": LONG_S})
    with pytest.raises(aiohttp.ClientError):
        await call
    await control.control("DELETE", "faults")

    async def is_made() -> bool:
        return len(await control.control("GET", "tokens")) == 1

    await eventually(is_made)


async def test_the_control_port_serves_controls_only(control: Caller) -> None:
    """The API is not served on the control port."""
    async with control.http.post(control.url, data=control.signed("QueryToken", Token="t")) as response:
        assert response.status == 404


async def test_a_later_order_replaces_the_earlier_one(cloud: Caller, control: Caller) -> None:
    """The port stays closed for the time of the last order."""
    await control.control("POST", "gateway", {"down_s": LONG_S})
    await control.control("POST", "gateway", {"down_s": 0.01})

    async def is_open() -> bool:
        return bool((await control.control("GET", "gateway"))["closed_for_s"] == 0)

    await eventually(is_open)
    await asyncio.gather(*(control.control("DELETE", "gateway") for _ in range(3)))
    assert (await cloud.call("QueryToken", Token="t")).code == "OK"


async def test_a_port_that_was_taken_meanwhile(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """If another process has taken the port, the sandbox opens it as soon as it is free."""
    sandbox = await start_sandbox(config)
    cloud = Caller(http, f"http://127.0.0.1:{sandbox.port}")
    await cloud.control("POST", "gateway", {"down_s": 0.05})
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", sandbox.port))
        taken.listen()
        control = Caller(http, f"http://127.0.0.1:{sandbox.control_port}")
        with pytest.raises(aiohttp.ClientResponseError):
            await control.control("DELETE", "gateway")
        await control.control("POST", "gateway", {"down_s": 0.05})

    async def is_open() -> bool:
        try:
            return (await cloud.call("QueryToken", Token="t")).code == "OK"
        except aiohttp.ClientError:
            return False

    await eventually(is_open)
    await sandbox.stop()


async def test_a_stop_while_the_port_is_closed(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """A sandbox that stops then leaves nothing running."""
    before = asyncio.all_tasks()
    sandbox = await start_sandbox(config)
    control = Caller(http, f"http://127.0.0.1:{sandbox.control_port}")
    await control.control("POST", "gateway", {"down_s": LONG_S})
    await sandbox.stop()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("body", [{}, {"down_s": 0}, {"down_s": 1e9}, {"down_s": "long"}])
async def test_bad_orders(control: Caller, body: object) -> None:
    """A malformed order is refused with the reason, and the port stays open."""
    async with control.http.post(f"{control.url}/_sandbox/gateway", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]
    assert await control.control("GET", "gateway") == {"closed_for_s": 0}
