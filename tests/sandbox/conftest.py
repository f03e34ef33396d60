"""A sandbox of its own for each test, on free ports, and its callers and clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from app.sandbox.server import Sandbox, SandboxConfig, start_sandbox
from tests.sandbox.caller import ACCESS_KEYS, Caller
from tests.sandbox.device import Device
from tests.sandbox.raw import Raw
from tests.sandbox.sdks import collected

__all__ = ["collected"]

INSTANCE = "post-cn-test"
GROUPS = ("GID_plant", "GID-plant")


@pytest.fixture
def config(tmp_path: Path) -> SandboxConfig:
    """Settings of a sandbox on free ports and a new file."""
    return SandboxConfig(database=tmp_path / "sandbox.db", instance_id=INSTANCE, access_keys=ACCESS_KEYS, groups=GROUPS)


@pytest.fixture
async def sandbox(config: SandboxConfig) -> AsyncIterator[Sandbox]:
    """A running sandbox."""
    running = await start_sandbox(config)
    yield running
    await running.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A session with a deadline for each request."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
def cloud(sandbox: Sandbox, http: aiohttp.ClientSession) -> Caller:
    """A caller of the sandbox with a valid key."""
    return Caller(http, f"http://127.0.0.1:{sandbox.port}")


@pytest.fixture
async def connect(sandbox: Sandbox) -> AsyncIterator[Callable[..., Awaitable[Device]]]:
    """Connect a paho client; the device has its CONNACK code."""
    devices: list[Device] = []

    async def connect(password: str, client_id: str = "GID_plant@@@d1", **options: object) -> Device:
        device = Device(sandbox.mqtt_port, client_id, password, **options)  # type: ignore[arg-type]
        devices.append(device)
        await device.connect()
        return device

    yield connect
    for device in devices:
        await device.close()


@pytest.fixture
async def raw(sandbox: Sandbox) -> AsyncIterator[Callable[[], Awaitable[Raw]]]:
    """Open a socket to the broker for any bytes."""
    sockets: list[Raw] = []

    async def open_() -> Raw:
        sockets.append(await Raw.open(sandbox.mqtt_port))
        return sockets[-1]

    yield open_
    for socket in sockets:
        await socket.close()
