"""Which clients may connect, by CONNACK codes, with real MQTT clients; a refused CONNECT changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import paho.mqtt.client as paho
import pytest

from tests.sandbox.caller import Caller
from tests.sandbox.device import USERNAME, Device
from tests.sandbox.raw import Raw
from tests.sandbox.raw import connect as packet_of_connect

Connect = Callable[..., Awaitable[Device]]

ACCEPTED, NOT_ACCEPTED, BAD_ID, BAD_FORM, NOT_AUTHORIZED = 0, 132, 133, 134, 135
"""paho reports the codes of 3.1.1 as those of MQTT 5."""


async def test_passwords(cloud: Caller, connect: Connect) -> None:
    """R, W and RW and pairs of them in any order sign in; every token must be valid, and of the named type."""
    r, w, rw = [await cloud.token(actions, "a/#") for actions in ("R", "W", "R,W")]
    for password, code in (
        (f"R|{r}", ACCEPTED),
        (f"W|{w}", ACCEPTED),
        (f"RW|{rw}", ACCEPTED),
        (f"R|{r}|W|{w}", ACCEPTED),
        (f"W|{w}|R|{r}", ACCEPTED),
        (f"RW|{rw}|W|{w}|R|{r}", ACCEPTED),
        (f"R|{r}|R|{r}", BAD_FORM),
        (f"R|{r}|W", BAD_FORM),
        (f"X|{r}", BAD_FORM),
        (f"r|{r}", BAD_FORM),
        (f"R|{r}|W|", BAD_FORM),
        (r, BAD_FORM),
        ("", BAD_FORM),
        (f"W|{r}", NOT_AUTHORIZED),
        (f"RW|{r}", NOT_AUTHORIZED),
        (f"R|{r[:-4]}AAAA", NOT_AUTHORIZED),
        (f"R|{r}|W|forged", NOT_AUTHORIZED),
    ):
        device = await connect(password)
        assert device.code == code, password
        await device.close()


@pytest.mark.parametrize(
    ("username", "code"),
    [
        (USERNAME, ACCEPTED),
        ("Token|ak-one|post-cn-other", NOT_AUTHORIZED),
        ("Token|nobody|post-cn-test", NOT_AUTHORIZED),
        ("Token|ak-two|post-cn-test", NOT_AUTHORIZED),
        ("Signature|ak-one|post-cn-test", NOT_AUTHORIZED),
        ("DeviceCredential|DC.x|post-cn-test", NOT_AUTHORIZED),
        ("token|ak-one|post-cn-test", BAD_FORM),
        ("Password|ak-one|post-cn-test", BAD_FORM),
        ("Token|ak-one", BAD_FORM),
        ("Token|ak-one|post-cn-test|", BAD_FORM),
        ("", BAD_FORM),
    ],
)
async def test_usernames(cloud: Caller, connect: Connect, username: str, code: int) -> None:
    """The user name names the mode, the access key that applied for the token, and the instance."""
    assert (await connect(f"R|{await cloud.token('R', 'a/#')}", username=username)).code == code


@pytest.mark.parametrize(
    ("client_id", "code"),
    [
        ("GID_plant@@@d1", ACCEPTED),
        ("GID-plant@@@" + "d" * 52, ACCEPTED),
        ("GID-plant@@@" + "d" * 53, BAD_ID),
        ("GID_plant", BAD_ID),
        ("GID_@@@d1", BAD_ID),
        ("plant@@@d1", BAD_ID),
        ("GID_plant@@@", BAD_ID),
        ("GID_plant@@@d 1", BAD_ID),
        ("GID_plant@@@d/#", BAD_ID),
    ],
)
async def test_client_ids(cloud: Caller, connect: Connect, client_id: str, code: int) -> None:
    """A client ID is GID_group@@@device with 64 characters at most."""
    assert (await connect(f"R|{await cloud.token('R', 'a/#')}", client_id)).code == code


async def test_empty_client_id(cloud: Caller, raw: Callable[[], Awaitable[Raw]]) -> None:
    """The broker generates no client ID for a client that sends none.

    paho would make one up itself and ask again, so this is a bare socket.
    """
    socket = await raw()
    await socket.send(packet_of_connect("", f"R|{await cloud.token('R', 'a/#')}"))
    assert await socket.rest() == b"\x20\x02\x00\x02"


async def test_revoked_and_expired(cloud: Caller, connect: Connect) -> None:
    """A revoked or expired token does not sign in, alone or beside a valid one."""
    good = await cloud.token("R", "a/#", life_s=1000)
    revoked, expired = await cloud.token("W", "a/#"), await cloud.token("W", "a/#", life_s=100)
    await cloud.revoke(revoked)
    await cloud.move_clock(101)
    assert (await connect(f"R|{good}")).code == ACCEPTED
    for bad in (revoked, expired):
        assert (await connect(f"R|{good}|W|{bad}", "GID_plant@@@d2")).code == NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("topic", "code"), [("a/will", ACCEPTED), ("b/will", NOT_AUTHORIZED), ("$SYS/x", NOT_AUTHORIZED)]
)
async def test_wills(cloud: Caller, connect: Connect, topic: str, code: int) -> None:
    """A will needs the right to publish it at CONNECT already."""
    device = await connect(f"W|{await cloud.token('W', 'a/#')}", will=(topic, "gone"))
    assert device.code == code


async def test_other_versions(cloud: Caller, connect: Connect) -> None:
    """MQTT 5 is refused with its own code, Unsupported Protocol Version; 3.1 with CONNACK 1."""
    password = f"R|{await cloud.token('R', 'a/#')}"
    assert (await connect(password, protocol=paho.MQTTv5)).code == 0x84
    assert (await connect(password, protocol=paho.MQTTv31)).code == NOT_ACCEPTED


async def test_a_refused_connect_changes_nothing(cloud: Caller, connect: Connect) -> None:
    """A refused client neither disconnects the owner of the client ID nor changes its subscriptions.

    amqtt's own broker clears the session before it looks at the password.
    """
    victim = await connect(f"RW|{await cloud.token('R,W', 'a/#')}", "GID_plant@@@victim", clean=False)
    assert await victim.subscribe("a/#", 1) == [1]
    revoked = await cloud.token("R", "a/#")
    await cloud.revoke(revoked)
    for password in ("", "R|forged", f"R|{revoked}", f"R|{await cloud.token('R', 'a/#')}|W|forged"):
        for clean in (True, False):
            refused = await connect(password, "GID_plant@@@victim", clean=clean)
            assert refused.code != ACCEPTED
    assert await victim.publish("a/x", "alive")
    assert await victim.got(b"alive")
    credential = await cloud.call("RegisterDeviceCredential", ClientId="GID_plant@@@victim")
    device_key_id = credential.json["DeviceCredential"]["DeviceAccessKeyId"]
    for username in ("Signature|ak-one|post-cn-test", f"DeviceCredential|{device_key_id}|post-cn-test"):
        assert (await connect("forged", "GID_plant@@@victim", username=username)).code == NOT_AUTHORIZED
    assert await victim.publish("a/x", "still alive")
    assert await victim.got(b"still alive")
    await victim.close(goodbye=False)
    assert (await connect("R|forged", "GID_plant@@@victim", clean=True)).code == NOT_AUTHORIZED
    back = await connect(f"RW|{await cloud.token('R,W', 'a/#')}", "GID_plant@@@victim", clean=False)
    assert back.session_present
    assert await back.publish("a/x", "subscribed as before")
    assert await back.got(b"subscribed as before")
