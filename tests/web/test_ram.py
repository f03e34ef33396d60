"""The least RAM policy is enough for the server, and for nothing else (guide chapter 6)."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.policy import SERVER_ACTIONS
from app.model.policy_file import parse_policy
from app.model.secrets import AccessKeySecret
from app.rpc import ram
from app.rpc.catalog import ACTIONS
from app.sandbox.access_keys import AccessKey
from tests.callers import Caller
from tests.sandbox import caller as signing
from tests.web.conftest import ACCESS_KEY_ID, ACCESS_KEY_SECRET, INSTANCE_ID, POLICY, MakeCaller, OwnCloud


@pytest.fixture
def access_key() -> AccessKey:
    """An access key with the policy that ``policy ram`` prints, and no other."""
    globs = [glob for glob, _ in parse_policy(POLICY.encode(), "policy.toml").parent_globs()]
    document: dict[str, Any] = ram.least_policy(SERVER_ACTIONS, INSTANCE_ID, globs)
    return AccessKey(AccessKeySecret(ACCESS_KEY_SECRET), policies=(ram.parse_ram_policy(document),))


async def test_the_server_needs_no_more(caller: Caller, make_caller: MakeCaller, cloud: OwnCloud) -> None:
    """Under the least policy devices of every role get their tokens, ask for them and give them back."""
    pressed = await make_caller("GID_other@@@p1", role="line", attributes={"line": "l1"})
    for device in (caller, pressed):
        token = (await device.token()).body["access_token"]
        assert (await device.introspect(token)).body["active"] is True
        assert (await device.revoke(token)).body["broker"] == "revoked"
    assert await cloud.unrevoked() == 0
    counted = {action: set(await cloud.calls(action)) for action in SERVER_ACTIONS}
    assert counted == {action: {"OK"} for action in SERVER_ACTIONS}


async def test_its_key_opens_nothing_else(cloud: OwnCloud) -> None:
    """With the server's key nobody gets a token for another topic, nor calls any other action."""
    key = signing.Caller(cloud._session, cloud.url, ACCESS_KEY_ID, AccessKeySecret(ACCESS_KEY_SECRET))
    given = {"Actions": "R", "ExpireTime": str(signing.in_ms(100)), "Resources": "plant/#,vault/#"}
    parameters = {
        **given,
        "ClientId": "GID_one@@@d1",
        "ClientIdList.1": "GID_one@@@d1",
        "GroupId": "GID_one",
        "MqttTopic": "plant/x",
        "Payload": "p",
        "InstanceId": INSTANCE_ID,
    }
    for action in ACTIONS.keys() - {"QueryToken", "RevokeToken"}:
        assert (await key.call(action, **parameters)).code == "PermissionCheckFailed"
