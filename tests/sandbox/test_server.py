"""Starting and stopping leave nothing behind, whichever part fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import replace
from typing import Literal

import aiohttp
import pytest

from app.sandbox.server import SandboxConfig, start_sandbox
from tests.sandbox.caller import Caller
from tests.sandbox.device import Device, eventually


@pytest.mark.parametrize("which", ["port", "mqtt_port"])
async def test_a_busy_port(config: SandboxConfig, which: Literal["port", "mqtt_port"]) -> None:
    """A busy port is EADDRINUSE; then nothing else stays taken, and the next start succeeds."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            await start_sandbox(replace(config, port=busy) if which == "port" else replace(config, mqtt_port=busy))
        assert caught.value.errno == errno.EADDRINUSE
    before = asyncio.all_tasks()
    sandbox = await start_sandbox(config)
    await sandbox.stop()
    assert asyncio.all_tasks() == before


async def test_stop(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """Stopping ends connections and held calls within moments, and frees both ports."""
    sandbox = await start_sandbox(config)
    cloud = Caller(http, f"http://127.0.0.1:{sandbox.port}")
    device = Device(sandbox.mqtt_port, "GID_plant@@@d1", f"R|{await cloud.token('R', 'a/#')}")
    await device.connect()
    await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "hold"})
    held = asyncio.create_task(cloud.token("R", "a/#"))

    async def is_held() -> bool:
        return bool((await cloud.control("GET", "faults"))["held"]["ApplyToken"])

    await eventually(is_held)
    async with asyncio.timeout(5):
        await sandbox.stop()
    with pytest.raises(aiohttp.ClientError):
        await held
    await device.cut()
    await device.close()
    again = await start_sandbox(replace(config, port=sandbox.port, mqtt_port=sandbox.mqtt_port))
    await again.stop()
