"""Every action of the client against the real stand-in, over one life of group, device and message."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import CloudError
from app.model.grants import TokenType
from app.model.secrets import AccessKeySecret
from app.model.topics import parse_filter
from app.rpc.signature import connect_password
from app.sandbox.access_keys import AccessKey
from app.sandbox.server import Sandbox, SandboxConfig, start_sandbox
from tests.cloud.conftest import Permits, soon
from tests.sandbox.device import Device

INSTANCE = "post-cn-test"
D1, D2 = "GID_plant@@@d1", "GID_plant@@@d2"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox with one group."""
    keys = {"ak-one": AccessKey(AccessKeySecret("sk-one"))}
    config = SandboxConfig(
        database=tmp_path / "sandbox.db", instance_id=INSTANCE, access_keys=keys, groups=("GID_plant",)
    )
    running = await start_sandbox(config)
    yield running
    await running.stop()


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[CloudClient]:
    """The client of that sandbox."""
    async with CloudClient(
        endpoint=f"http://127.0.0.1:{sandbox.port}",
        region="cn-hangzhou",
        instance_id=INSTANCE,
        credentials=LastingCredentials(Credentials("ak-one", AccessKeySecret("sk-one"))),
        quota=Permits(),
        now_ms=lambda: int(time.time() * 1000),
    ).connect() as opened:
        yield opened


async def test_groups(client: CloudClient) -> None:
    """What was created is listed, twice is refused, and what was deleted is gone."""
    await client.create_group_id("GID_new", deadline=soon())
    assert {group.group_id for group in await client.list_group_ids(deadline=soon())} == {"GID_plant", "GID_new"}
    with pytest.raises(CloudError, match="GroupIdAlreadyExsited"):
        await client.create_group_id("GID_new", deadline=soon())
    await client.delete_group_id("GID_new", deadline=soon())
    assert [group.group_id for group in await client.list_group_ids(deadline=soon())] == ["GID_plant"]


async def test_a_device_from_its_credential_to_being_cut_off(client: CloudClient, sandbox: Sandbox) -> None:
    """A registered device logs in, is seen online, gets a message, and is cut off; an old secret is worth nothing."""
    old = await client.register_device_credential(D1, deadline=soon())
    assert await client.get_device_credential(D1, deadline=soon()) == old
    new = await client.refresh_device_credential(D1, deadline=soon())
    assert new.device_access_key_id == old.device_access_key_id
    username = f"DeviceCredential|{new.device_access_key_id}|{INSTANCE}"
    refused, device = (
        Device(sandbox.mqtt_port, D1, connect_password(each.device_access_key_secret, D1).reveal(), username=username)
        for each in (old, new)
    )
    await refused.connect()
    assert refused.code != 0
    await refused.close()
    await device.connect()
    assert device.code == 0
    assert await client.query_session(D1, deadline=soon())
    assert not await client.query_session(D2, deadline=soon())
    await device.subscribe("plant/all")
    assert await client.send_message("plant/all", "hällo", deadline=soon())
    await device.got("hällo".encode())
    await client.close_connection(D1, deadline=soon())
    await device.cut()
    await device.close()
    await client.unregister_device_credential(D1, deadline=soon())
    with pytest.raises(CloudError):
        await client.get_device_credential(D1, deadline=soon())


async def test_a_token(client: CloudClient) -> None:
    """A token is valid until it is revoked."""
    expires_at_ms = int(time.time() * 1000) + 600_000
    halves = [(TokenType.RW, [parse_filter("plant/#")])]
    applied = await client.apply_tokens(halves, lambda: expires_at_ms, deadline=soon())
    token = applied.tokens[TokenType.RW]
    assert await client.query_token(token, deadline=soon())
    await client.revoke_token(token, deadline=soon())
    assert not await client.query_token(token, deadline=soon())
