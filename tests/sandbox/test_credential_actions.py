"""Device credentials (guide chapter 14) and the account's own key, as ways to sign in (FACTS 1)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from app.sandbox.server import SandboxConfig
from tests.sandbox.caller import INSTANCE, Caller
from tests.sandbox.device import Device

Connect = Callable[..., Awaitable[Device]]

D1, D2 = "GID_plant@@@d1", "GID_plant@@@d2"
NOT_AUTHORIZED = 135


def signed(secret: str, client_id: str) -> str:
    """Return base64(HMAC-SHA1(secret, client ID))."""
    return base64.b64encode(hmac.digest(secret.encode(), client_id.encode(), hashlib.sha1)).decode()


async def credential_of(cloud: Caller, action: str = "RegisterDeviceCredential", client_id: str = D1) -> dict[str, Any]:
    """Call an action that answers a credential."""
    reply = await cloud.call(action, ClientId=client_id)
    assert reply.code == "OK", reply.text
    answer: dict[str, Any] = reply.json["DeviceCredential"]
    return answer


async def sign_in(connect: Connect, credential: dict[str, Any], client_id: str = D1, **options: Any) -> Device:
    """Connect with a credential."""
    username = f"DeviceCredential|{credential['DeviceAccessKeyId']}|{INSTANCE}"
    return await connect(
        signed(credential["DeviceAccessKeySecret"], client_id), client_id, username=username, **options
    )


async def test_the_life_of_a_credential(cloud: Caller) -> None:
    """Register generates a key ID and a secret, Get returns them, Refresh generates a new secret, Register both."""
    first = await credential_of(cloud)
    assert all(re.fullmatch(r"DC\.[A-Za-z0-9]{22}", first[f"DeviceAccessKey{part}"]) for part in ("Id", "Secret"))
    assert await credential_of(cloud, "GetDeviceCredential") == first
    await cloud.move_clock(10)
    refreshed = await credential_of(cloud, "RefreshDeviceCredential")
    changed = {name for name in first if first[name] != refreshed[name]}
    assert changed == {"DeviceAccessKeySecret", "UpdateTime"}
    assert refreshed["UpdateTime"] >= first["UpdateTime"] + 10_000
    again = await credential_of(cloud)
    assert again["DeviceAccessKeyId"] != first["DeviceAccessKeyId"]
    assert await credential_of(cloud, "GetDeviceCredential") == again
    other = await credential_of(cloud, client_id=D2)
    assert (await cloud.call("UnRegisterDeviceCredential", ClientId=D1)).code == "OK"
    for action in ("GetDeviceCredential", "RefreshDeviceCredential", "UnRegisterDeviceCredential"):
        assert (await cloud.call(action, ClientId=D1)).code == "ParameterCheckFailed"
        assert (await cloud.call(action, ClientId="GID_unknown@@@d1")).code == "PermissionCheckFailed"
    assert await credential_of(cloud, "GetDeviceCredential", D2) == other


async def test_a_credential_serves_its_own_client_id(cloud: Caller, connect: Connect) -> None:
    """It signs in its device and no other, under its own key ID, with its own secret, at its own instance."""
    mine, other = await credential_of(cloud), await credential_of(cloud, client_id=D2)
    good = f"DeviceCredential|{mine['DeviceAccessKeyId']}|{INSTANCE}"
    secret = mine["DeviceAccessKeySecret"]
    for client_id, username, password, code in (
        (D1, good, signed(secret, D1), 0),
        (D2, good, signed(secret, D2), NOT_AUTHORIZED),
        (D2, f"DeviceCredential|{other['DeviceAccessKeyId']}|{INSTANCE}", signed(secret, D2), NOT_AUTHORIZED),
        (D1, good, signed(secret, D2), NOT_AUTHORIZED),
        (D1, good, secret, NOT_AUTHORIZED),
        (D1, good, "", NOT_AUTHORIZED),
        (D1, f"DeviceCredential|{mine['DeviceAccessKeyId']}|post-cn-other", signed(secret, D1), NOT_AUTHORIZED),
        (D1, f"Signature|{mine['DeviceAccessKeyId']}|{INSTANCE}", signed(secret, D1), NOT_AUTHORIZED),
        (D1, f"DeviceCredential|ak-one|{INSTANCE}", signed("secret-one", D1), NOT_AUTHORIZED),
        ("GID_plant@@@d3", good, signed(secret, "GID_plant@@@d3"), NOT_AUTHORIZED),
    ):
        device = await connect(password, client_id, username=username)
        assert device.code == code, (client_id, username)
        await device.close()


@pytest.mark.parametrize(
    "action", ["RegisterDeviceCredential", "RefreshDeviceCredential", "UnRegisterDeviceCredential"]
)
async def test_an_old_secret_is_refused(cloud: Caller, connect: Connect, action: str) -> None:
    """A client that signed in with it gets notice -1 and is disconnected at once without its will; the new one works.

    Other devices, and a client with the same client ID and a token, stay connected.
    """
    old = await credential_of(cloud)
    witness = await sign_in(connect, await credential_of(cloud, client_id=D2), D2)
    await witness.subscribe("a/#", 1)
    device = await sign_in(connect, old, will=("a/will", "from beyond"))
    reply = await cloud.call(action, ClientId=D1)
    await device.cut()
    assert [notice["code"] for notice in device.notices()] == [-1]
    assert (await sign_in(connect, old)).code == NOT_AUTHORIZED
    if action != "UnRegisterDeviceCredential":
        assert (await sign_in(connect, reply.json["DeviceCredential"])).code == 0
    by_token = await connect(f"R|{await cloud.token('R', 'a/#')}", D1)
    await cloud.call("RegisterDeviceCredential", ClientId=D1)
    assert await witness.publish("a/x", "last")
    await witness.got(b"last")
    assert (witness.payloads(), by_token.over) == ([b"last"], False)


async def test_what_a_key_may_do(cloud: Caller, connect: Connect) -> None:
    """A credential or the account's key permits every topic whose parent topic is named, and nothing under $."""
    device = await sign_in(connect, await credential_of(cloud))
    username = f"Signature|ak-two|{INSTANCE}"
    server = await connect(signed("secret-two", "GID_plant@@@server"), "GID_plant@@@server", username=username)
    for client, other in ((device, server), (server, device)):
        assert await client.subscribe("x/+/#", 1) == [1]
        assert await other.publish("x/y", repr(client))
        await client.got(repr(client).encode())
    for topic in ("#", "+/x", "$SYS/#", "$SYS/tokenInvalidNotice", "$share/g/x", "x/" + "y" * 63):
        denied = await connect(signed("secret-two", "GID_plant@@@no"), "GID_plant@@@no", username=username)
        assert await denied.subscribe(topic) is None, topic
        assert denied.notices() == [{"code": 4, "type": "R"}]
    assert not await device.publish("$SYS/tokenInvalidNotice", "forged")
    assert device.notices() == [{"code": 4, "type": "W"}]


async def test_a_client_with_a_key_cannot_upload_a_token(cloud: Caller, connect: Connect) -> None:
    """A client that did not sign in with tokens cannot upload one."""
    device = await sign_in(connect, await credential_of(cloud))
    assert not await device.upload("RW", await cloud.token("R,W", "a/#"))
    assert device.notices() == [{"code": 5, "type": "RW"}]


@pytest.mark.parametrize(
    ("key", "secret", "signed_id", "client_id", "code"),
    [
        ("ak-one", "secret-one", D1, D1, 0),
        ("ak-one", "secret-two", D1, D1, NOT_AUTHORIZED),
        ("ak-one", "secret-one", D2, D1, NOT_AUTHORIZED),
        ("nobody", "secret-one", D1, D1, NOT_AUTHORIZED),
        ("", "", D1, D1, NOT_AUTHORIZED),
        ("ak-one", "secret-one", "GID_new@@@d", "GID_new@@@d", NOT_AUTHORIZED),
    ],
)
async def test_signature(connect: Connect, key: str, secret: str, signed_id: str, client_id: str, code: int) -> None:
    """The account's own key signs in any client ID of a group that is there, by that very ID's signature."""
    username = f"Signature|{key}|{INSTANCE}"
    assert (await connect(signed(secret, signed_id), client_id, username=username)).code == code


async def test_at_once(cloud: Caller, connect: Connect) -> None:
    """Of simultaneous refreshes and registrations one is current: Get returns it, and only it signs in."""
    await credential_of(cloud)
    actions = ["RegisterDeviceCredential", "RefreshDeviceCredential"] * 4
    replies = await asyncio.gather(*(cloud.call(action, ClientId=D1) for action in actions))
    offered = [reply.json["DeviceCredential"] for reply in replies if reply.code == "OK"]
    current = await credential_of(cloud, "GetDeviceCredential")
    assert current in offered
    assert (await sign_in(connect, current)).code == 0
    for credential in offered:
        if credential != current:
            assert (await sign_in(connect, credential)).code == NOT_AUTHORIZED


async def test_secrets_stay_in_the_database(
    config: SandboxConfig, cloud: Caller, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the owner can open the database with the secrets, and SQLite's files beside it; no log shows a secret."""
    credential = await credential_of(cloud)
    await sign_in(connect, credential)
    await sign_in(connect, {**credential, "DeviceAccessKeyId": "DC.wrong"})
    files = list(Path(config.database).parent.glob("sandbox.db*"))
    assert len(files) > 1
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    shown = "".join(capsys.readouterr())
    assert D1 in shown
    assert credential["DeviceAccessKeySecret"] not in shown
    assert signed(credential["DeviceAccessKeySecret"], D1) not in shown
