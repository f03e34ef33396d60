"""Parent topics: only those that are listed exist."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from app.sandbox.access import ParentTopics, point_to_point_receiver
from app.sandbox.server import SandboxConfig, start_sandbox
from tests.sandbox.caller import INSTANCE, Caller, in_ms
from tests.sandbox.device import Device

Connect = Callable[..., Awaitable[Device]]


@pytest.fixture
def config(config: SandboxConfig) -> SandboxConfig:
    """A sandbox with two parent topics."""
    return replace(config, parents=ParentTopics.parse_names(["Plant", "site-2"]))


@pytest.mark.parametrize(
    ("resources", "code"),
    [
        ("plant/#", "OK"),
        ("PLANT", "OK"),
        ("Plant/x,Site-2/+", "OK"),
        ("factory/#", "PermissionCheckFailed"),
        ("factory/#,plant/#", "PermissionCheckFailed"),
        ("plant2/#", "PermissionCheckFailed"),
        ("+/x", "PermissionCheckFailed"),
        ("#", "PermissionCheckFailed"),
    ],
)
async def test_apply_token(cloud: Caller, resources: str, code: str) -> None:
    """Every resource needs a parent topic that exists, in any case of letters; a wildcard is not a parent topic."""
    reply = await cloud.call("ApplyToken", Actions="R", Resources=resources, ExpireTime=str(in_ms(100)))
    assert reply.code == code
    assert len(await cloud.control("GET", "tokens")) == (code == "OK")


async def test_send_message(cloud: Caller) -> None:
    """The topic of a message needs a parent topic that exists."""
    for topic, code in (("plant/x", "OK"), ("PLANT", "OK"), ("factory/x", "PermissionCheckFailed")):
        assert (await cloud.call("SendMessage", MqttTopic=topic, Payload="x")).code == code


async def test_devices(cloud: Caller, connect: Connect) -> None:
    """A client with a key may use every parent topic that exists; with another it is disconnected with code 4."""
    password = base64.b64encode(hmac.digest(b"secret-one", b"GID_plant@@@d1", hashlib.sha1)).decode()
    for topic, there in (("plant/x", True), ("Site-2/x", True), ("factory/x", False), ("plants", False)):
        device = await connect(password, username=f"Signature|ak-one|{INSTANCE}")
        assert await device.publish(topic) is there
        device = await connect(password, username=f"Signature|ak-one|{INSTANCE}")
        assert await device.subscribe(topic, 1) == ([1] if there else None)
        assert device.notices() == ([] if there else [{"code": 4, "type": "R"}])


async def test_a_token_from_before(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """The list of the current start counts, also for older tokens and retained messages."""
    sandbox = await start_sandbox(replace(config, parents=ParentTopics()))
    token = await Caller(http, f"http://127.0.0.1:{sandbox.port}").token("R,W", "factory/#,plant/#")
    device = Device(sandbox.mqtt_port, "GID_plant@@@d1", f"RW|{token}")
    await device.connect()
    assert await device.publish("factory/x", retain=True)
    await device.close()
    await sandbox.stop()
    sandbox = await start_sandbox(config)
    for topic, there in (("plant/x", True), ("factory/x", False)):
        device = Device(sandbox.mqtt_port, "GID_plant@@@d1", f"RW|{token}")
        await device.connect()
        assert await device.subscribe(topic) == ([0] if there else None)
        assert device.payloads() == []
        await device.close()
    await sandbox.stop()


def test_names() -> None:
    """A parent topic is a name; without a list every one exists; a point-to-point topic is ``PARENT/p2p/CLIENT``."""
    for bad in ("a/b", "", "#", "ä", "a b"):
        with pytest.raises(ValueError, match="not a valid parent topic"):
            ParentTopics.parse_names(["good", bad])
    assert ParentTopics.parse_names([]).include("anything/#")
    assert point_to_point_receiver("a/p2p/GID_x@@@y") == "GID_x@@@y"
    for other in ("a/p2p", "a/p2p/x/y", "p2p/a/x", "a/P2P/x", "a"):
        assert point_to_point_receiver(other) is None
