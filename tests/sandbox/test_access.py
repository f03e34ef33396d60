"""What tokens permit, with real MQTT clients: a denied client gets a code and is disconnected."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from app.sandbox.access import AccessDenied, parse_token_upload
from tests.sandbox.caller import Caller, in_ms
from tests.sandbox.device import Device, eventually

Connect = Callable[..., Awaitable[Device]]


async def pair(cloud: Caller, read: str = "plant/down/#", write: str = "plant/up/#") -> str:
    """Return the password of a device with an R and a W token."""
    return f"R|{await cloud.token('R', read)}|W|{await cloud.token('W', write)}"


@pytest.mark.parametrize(
    ("types", "topic", "code"),
    [
        ("R,W", "plant/down/d1", 4),
        ("R,W", "plant/upper", 4),
        ("R,W", "$SYS/other", 4),
        ("R,W", "$SYS/tokenInvalidNotice", 4),
        ("R,W", "plant/up/" + "x" * 60, 4),
        ("R", "plant/up/d1", 5),
    ],
)
@pytest.mark.parametrize("qos", [1, 2])
async def test_denied_publish(cloud: Caller, connect: Connect, types: str, topic: str, code: int, qos: int) -> None:
    """A publish outside the W resources, or without W, is never acknowledged or delivered; it ends the connection."""
    witness = await connect(f"R|{await cloud.token('R', 'plant/#')}", "GID_plant@@@witness")
    assert await witness.subscribe("plant/#") == [0]
    password = await pair(cloud) if types == "R,W" else f"R|{await cloud.token('R', 'plant/up/#')}"
    device = await connect(password)
    assert not await device.publish(topic, "denied", qos)
    assert device.notices() == [{"code": code, "type": "W"}]
    other = await connect(f"W|{await cloud.token('W', 'plant/+')}", "GID_plant@@@other")
    assert await other.publish("plant/last", "last")
    await witness.got(b"last")
    assert witness.payloads() == [b"last"]


@pytest.mark.parametrize(
    ("type_", "topic_filter", "code"),
    [
        ("R", "plant/#", 4),
        ("R", "plant/down", None),
        ("R", "plant/down/+/x", None),
        ("R", "+/down/#", 4),
        ("R", "#", 4),
        ("R", "$SYS/#", 4),
        ("R", "$SYS/tokenExpireNotice", 4),
        ("R", "$share/g/plant/down/d1", 4),
        ("W", "plant/down/d1", 5),
        ("R,W", "plant/down/d1", None),
    ],
)
async def test_subscribe(cloud: Caller, connect: Connect, type_: str, topic_filter: str, code: int | None) -> None:
    """A filter is granted if and only if one resource of an R or RW token covers it."""
    device = await connect(f"{type_.replace(',', '')}|{await cloud.token(type_, 'plant/down/#')}")
    granted = await device.subscribe(topic_filter, 1)
    if code is None:
        assert granted == [1]
    else:
        assert granted is None
        assert device.notices() == [{"code": code, "type": "R"}]


async def test_one_denied_filter_denies_the_packet(cloud: Caller, connect: Connect) -> None:
    """A SUBSCRIBE with one filter outside the resources grants none of them."""
    device = await connect(await pair(cloud))
    device.client.subscribe([("plant/down/a", 0), ("secret/#", 0)])
    await device.cut()
    assert device.granted == {}
    assert device.notices() == [{"code": 4, "type": "R"}]


@pytest.mark.parametrize("held", ["R", "W"])
async def test_revocation_disconnects_at_once(cloud: Caller, connect: Connect, held: str) -> None:
    """Revoking either of a connection's tokens ends it at once with code 3, also when it is idle."""
    tokens = {"R": await cloud.token("R", "plant/down/#"), "W": await cloud.token("W", "plant/up/#")}
    device = await connect("|".join(f"{type_}|{token}" for type_, token in tokens.items()))
    bystander = await connect(await pair(cloud), "GID_plant@@@d2")
    await cloud.revoke(tokens[held])
    await device.cut()
    assert device.notices() == [{"code": 3, "type": held}]
    assert await bystander.publish("plant/up/x")


async def test_expiry(cloud: Caller, connect: Connect) -> None:
    """Five minutes ahead the client is notified once; at expiry it is disconnected with code 2."""
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#', life_s=1000)}")
    assert await device.subscribe("a/#") == [0]
    assert device.notices("tokenExpireNotice") == []
    await cloud.move_clock(710)
    await eventually(lambda: device.notices("tokenExpireNotice"))
    await cloud.move_clock(900)
    assert await device.publish("a/x")
    (notice,) = device.notices("tokenExpireNotice")
    assert notice["type"] == "RW"
    assert notice["expireTime"] == (await cloud.control("GET", "tokens"))[0]["expires_at_ms"]
    await cloud.move_clock(1001)
    await device.cut()
    assert device.notices() == [{"code": 2, "type": "RW"}]


async def test_expiry_by_itself(cloud: Caller, connect: Connect) -> None:
    """The connection ends when its token expires, without any packet or call."""
    device = await connect(f"R|{await cloud.token('R', 'a/#', life_s=3600)}")
    (token,) = await cloud.control("GET", "tokens")
    await cloud.move_clock((token["expires_at_ms"] - in_ms(1)) / 1000)
    assert not device.over
    await device.cut()
    assert device.notices() == [{"code": 2, "type": "R"}]


async def test_upload_keeps_the_connection(cloud: Caller, connect: Connect) -> None:
    """After an upload the old token does not matter: it is revoked and expires, and the connection stays."""
    old, new = await cloud.token("R,W", "a/#", life_s=100), await cloud.token("R,W", "a/#", life_s=9000)
    device = await connect(f"RW|{old}")
    assert await device.subscribe("a/#", 1) == [1]
    assert await device.upload("RW", new)
    await cloud.revoke(old)
    await cloud.move_clock(800)
    assert await device.publish("a/x", "still here")
    assert await device.got(b"still here") == ("a/x", b"still here", 1, False)
    await cloud.revoke(new)
    await device.cut()
    assert device.notices() == [{"code": 3, "type": "RW"}]


async def test_upload_takes_effect_before_its_puback(cloud: Caller, connect: Connect) -> None:
    """After the PUBACK the client has the rights of the new token, and not those of the old one."""
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#')}")
    assert await device.subscribe("a/#", 1) == [1]
    assert await device.upload("RW", await cloud.token("R,W", "b/#"), key="Token")
    assert await device.subscribe("b/#", 1) == [1]
    other = await connect(f"W|{await cloud.token('W', 'a/#,b/#')}", "GID_plant@@@other")
    assert await other.publish("a/x", "no longer")
    assert await other.publish("b/x", "now")
    await device.got(b"now")
    assert device.payloads() == [b"now"]
    assert not await device.publish("a/x")
    assert device.notices() == [{"code": 4, "type": "W"}]


async def test_upload_replaces_its_own_type(cloud: Caller, connect: Connect) -> None:
    """An uploaded RW token does not replace R and W; revoking one of those still ends the connection."""
    read = await cloud.token("R", "a/#")
    device = await connect(f"R|{read}")
    assert await device.upload("RW", await cloud.token("R,W", "b/#"))
    assert await device.publish("b/x")
    await cloud.revoke(read)
    await device.cut()
    assert device.notices() == [{"code": 3, "type": "R"}]


@pytest.mark.parametrize("fault", ["forged", "revoked", "expired", "type", "account"])
async def test_bad_upload(cloud: Caller, connect: Connect, fault: str) -> None:
    """An invalid token is not acknowledged: the client gets a code and is disconnected."""
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#')}")
    other = Caller(cloud.http, cloud.url, "ak-two") if fault == "account" else cloud
    token = await other.token("R,W", "a/#", life_s=61)
    if fault == "revoked":
        await cloud.revoke(token)
    elif fault == "expired":
        await cloud.move_clock(62)
    given = "x" + token[1:] + "x" if fault == "forged" else token
    assert not await device.upload("R" if fault == "type" else "RW", given)
    codes = {"forged": 1, "expired": 2, "revoked": 3, "type": 5, "account": -1}
    assert [notice["code"] for notice in device.notices()] == [codes[fault]]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"type": "R"}',
        b'{"token": "t"}',
        b'{"token": "t", "type": "X"}',
        b'{"token": 1, "type": "R"}',
        b"[" * 5000,
        b"null",
    ],
)
def test_unreadable_uploads(payload: bytes) -> None:
    """An upload that cannot be read counts as forged."""
    with pytest.raises(AccessDenied) as denied:
        parse_token_upload(payload)
    assert denied.value.code == 1


async def test_each_delivery_is_authorized(cloud: Caller, connect: Connect) -> None:
    """A subscription delivers the messages that the current tokens permit, and no others."""
    device = await connect(f"R|{await cloud.token('R', 'a/#')}")
    assert await device.subscribe("a/#", 1) == [1]
    assert await device.upload("R", await cloud.token("R", "a/public"))
    other = await connect(f"W|{await cloud.token('W', 'a/#')}", "GID_plant@@@other")
    assert await other.publish("a/secret", "secret")
    assert await other.publish("a/public", "public")
    await device.got(b"public")
    assert device.payloads() == [b"public"]


async def test_an_expired_token_permits_nothing_even_before_the_end(cloud: Caller, connect: Connect) -> None:
    """A publish after expiry is never acknowledged, whichever comes first, the publish or the timer."""
    device = await connect(f"RW|{await cloud.token('R,W', 'a/#', life_s=100)}")
    await cloud.move_clock(100.1)
    assert not await device.publish("a/x")
    assert device.notices() == [{"code": 2, "type": "RW"}]


def test_notice_bodies_are_the_documents() -> None:
    """The upload of the documents' own example is understood, in both spellings of its key."""
    for key in ("token", "Token"):
        type_, token = parse_token_upload(json.dumps({key: "t+/=", "type": "RW"}).encode())
        assert (type_.value, token.reveal()) == ("RW", "t+/=")
