"""Access keys: their accounts, what their policies allow, and which files are refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import ACTIONS
from app.sandbox.access_keys import AccessKey, load_access_keys
from app.sandbox.server import SandboxConfig
from tests.sandbox.caller import Caller, in_ms, timestamp
from tests.sandbox.conftest import INSTANCE
from tests.sandbox.device import Device

NEIGHBOR = "post-cn-neighbor"
POLICY = {
    "Version": "1",
    "Statement": [
        {"Effect": "Allow", "Action": ["mq:MqttInstanceAccess", "mq:*Token"], "Resource": "*"},
        {"Effect": "Deny", "Action": "mq:ApplyToken", "Resource": "acs:mq:*:*:topic/*/vault"},
    ],
}
NOT_AUTHORIZED = 135
"""As paho names CONNACK code 5."""

FILE: dict[str, Any] = {
    "keys": [
        {"id": "ak-devices", "secret": "s", "policies": [POLICY]},
        {"id": "ak-nothing", "secret": "s", "policies": []},
        {"id": "ak-old", "secret": "s", "active": False},
        {"id": "ak-neighbor", "secret": "s", "account": "2002"},
        {"id": "STS.one", "secret": "s", "security_token": "st+s=", "expiration": timestamp(3600)},
    ],
    "instances": {NEIGHBOR: "2002"},
}


@pytest.fixture
def config(config: SandboxConfig, tmp_path: Path) -> SandboxConfig:
    """A sandbox with a file of keys."""
    (tmp_path / "keys.json").write_text(json.dumps(FILE))
    keyring = load_access_keys(tmp_path / "keys.json")
    return replace(config, access_keys={**config.access_keys, **keyring.keys}, other_instances=keyring.instances)


@pytest.fixture
def caller(cloud: Caller) -> Callable[[str], Caller]:
    """Return a caller with a key of the file."""
    return lambda access_key_id: Caller(cloud.http, cloud.url, access_key_id, AccessKeySecret("s"))


async def test_policies_decide(caller: Callable[[str], Caller]) -> None:
    """A key may do what its policies allow and no more, and a refused call has no effect."""
    devices = caller("ak-devices")
    token = await devices.token("R", "plant/#")
    life = {"ExpireTime": str(in_ms(100))}
    assert (await devices.call("ApplyToken", Actions="R", Resources="vault/#", **life)).code == "PermissionCheckFailed"
    assert (await devices.call("ApplyToken", Actions="R", Resources="VAULT/#", **life)).code == "PermissionCheckFailed"
    assert (await devices.call("ApplyToken", Actions="R", Resources="#", **life)).code == "PermissionCheckFailed"
    nothing = caller("ak-nothing")
    reply = await nothing.call("RevokeToken", Token=token)
    assert (reply.status, reply.code) == (400, "InstancePermissionCheckFailed")
    assert await devices.status(token)
    assert len(await devices.control("GET", "tokens")) == 1


@pytest.mark.parametrize("action", ACTIONS)
async def test_every_action_needs_a_policy(caller: Callable[[str], Caller], action: str) -> None:
    """No action is carried out for a key without a policy; the refusal is one of the action's own codes."""
    parameters = {
        "ClientId": "GID_one@@@d1",
        "ClientIdList.1": "GID_one@@@d1",
        "GroupId": "GID_one",
        "MqttTopic": "plant/x",
        "Payload": "p",
        "Token": "t",
        "Actions": "R",
        "Resources": "plant/#",
        "ExpireTime": str(in_ms(100)),
    }
    reply = await caller("ak-nothing").call(action, **parameters)
    assert reply.code == "InstancePermissionCheckFailed"
    assert reply.code in ACTIONS[action].errors


async def test_accounts_are_kept_apart(caller: Callable[[str], Caller], cloud: Caller) -> None:
    """Another account's instance is refused to everybody else, whatever their policies; an unknown one is unknown."""
    neighbor = caller("ak-neighbor")
    assert (await neighbor.call("QueryToken", Token="t")).code == "InstancePermissionCheckFailed"
    assert (await cloud.call("QueryToken", InstanceId=NEIGHBOR, Token="t")).code == "InstancePermissionCheckFailed"
    assert (await neighbor.call("QueryToken", InstanceId=NEIGHBOR, Token="t")).code == "OK"


async def test_a_group_id_is_one_account_s(caller: Callable[[str], Caller], cloud: Caller) -> None:
    """A group ID that another account has in its instance is taken, until it is deleted there."""
    neighbor = caller("ak-neighbor")
    assert (await neighbor.call("CreateGroupId", InstanceId=NEIGHBOR, GroupId="GID_one")).code == "OK"
    reply = await cloud.call("CreateGroupId", GroupId="GID_one")
    assert (reply.status, reply.code) == (400, "GroupIdAlreadyUsedByOtherUsers")
    for row in (await cloud.call("ListGroupId")).json["Data"]:
        assert (row["InstanceId"], row["IndependentNaming"]) == (INSTANCE, False)
    assert (await cloud.call("DeleteGroupId", GroupId="GID_one")).code == "ResourcePermissionCheckFailed"
    assert (await neighbor.call("DeleteGroupId", InstanceId=NEIGHBOR, GroupId="GID_one")).code == "OK"
    assert (await cloud.call("CreateGroupId", GroupId="GID_one")).code == "OK"


async def test_a_token_is_one_account_s(caller: Callable[[str], Caller], cloud: Caller) -> None:
    """Another account that has a token cannot query or revoke it."""
    token = await cloud.token("R", "plant/#")
    neighbor = caller("ak-neighbor")
    reply = await neighbor.call("QueryToken", InstanceId=NEIGHBOR, Token=token)
    assert reply.json["TokenStatus"] is False
    assert (await neighbor.call("RevokeToken", InstanceId=NEIGHBOR, Token=token)).code == "OK"
    assert await cloud.status(token)


async def test_a_disabled_key(caller: Callable[[str], Caller]) -> None:
    """A disabled key is refused by the gateway, before its signature is looked at."""
    reply = await caller("ak-old").forger().call("QueryToken", Token="t")
    assert (reply.status, reply.code) == (400, "InvalidAccessKeyId.Inactive")


async def test_a_temporary_key(caller: Callable[[str], Caller]) -> None:
    """A temporary key needs its own STS token on each call, with either signature, and ends with its time."""
    sts = caller("STS.one")
    given = {"InstanceId": INSTANCE, "Token": "t"}
    assert (await sts.call("QueryToken", Token="t", SecurityToken="st+s=")).code == "OK"
    reply = await sts.acs3("QueryToken", query=given, headers={"x-acs-security-token": "st+s="})
    assert reply.code == "OK"
    assert (await sts.call("QueryToken", Token="t")).code == "MissingSecurityToken"
    assert (await sts.call("QueryToken", Token="t", SecurityToken="other")).code == "CheckAccountInfoFailed"
    await sts.move_clock(7200)
    reply = await sts.call("QueryToken", Token="t", SecurityToken="st+s=", Timestamp=timestamp(7200))
    assert (reply.status, reply.code) == (400, "InvalidSecurityToken.Expired")


async def test_the_broker_accepts_the_keys_of_the_owner(
    caller: Callable[[str], Caller], connect: Callable[..., Awaitable[Device]]
) -> None:
    """Each active key of the owner signs in with its own tokens; a neighbor's tokens are for its own instance."""
    token = await caller("ak-devices").token("R", "plant/#")
    assert (await connect(f"R|{token}", username=f"Token|ak-devices|{INSTANCE}")).code == 0
    assert (await connect(f"R|{token}", username=f"Token|ak-one|{INSTANCE}")).code == NOT_AUTHORIZED
    signed = signature.connect_password(AccessKeySecret("s"), "GID_plant@@@d1").reveal()
    for access_key_id in ("ak-devices", "ak-neighbor", "STS.one"):  # only a root key signs for every topic
        assert (await connect(signed, username=f"Signature|{access_key_id}|{INSTANCE}")).code == NOT_AUTHORIZED
    foreign = await caller("ak-neighbor").token("R", "plant/#", InstanceId=NEIGHBOR)
    assert (await connect(f"R|{foreign}", username=f"Token|ak-neighbor|{INSTANCE}")).code == NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "Expecting"),
        ("[]", "Expected `object`"),
        ('{"key": []}', "unknown field `key`"),
        ('{"keys": [{"id": "a"}]}', r"missing required field `secret` - at `\$.keys\[0\]`"),
        ('{"keys": [{"id": "a", "secret": 1}]}', r"Expected `str`, got `int` - at `\$.keys\[0\].secret`"),
        ('{"keys": [{"id": "", "secret": "hush"}]}', r"keys\[0\]: id and secret"),
        ('{"keys": [{"id": "a|b", "secret": "hush"}]}', r"keys\[0\]: id and secret"),
        (
            '{"keys": [{"id": "a", "secret": "hush"}, {"id": "a", "secret": "hush"}]}',
            r"keys\[1\].id: 'a' is",
        ),
        ('{"keys": [{"id": "a", "secret": "hush", "security_token": "t"}]}', "come together"),
        (
            '{"keys": [{"id": "a", "secret": "hush", "security_token": "t", "expiration": "2027-01-01T00:00:00"}]}',
            "without a time zone",
        ),
        (
            '{"keys": [{"id": "a", "secret": "hush", "policies": [{"Version": "2"}]}]}',
            r"keys\[0\].policies\[0\]: S",
        ),
        ('{"keys": [], "keys": []}', "'keys' is given twice in one object"),
        ('{"instances": {"post-cn-a": 1}}', "Expected `str`"),
        ('{"instances": {"post-cn-a": "1000000000000001"}}', "has only the instance that the sandbox plays"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_wrong_file_of_keys(tmp_path: Path, content: str, complaint: str) -> None:
    """A file that cannot be used is refused with its name and the place, and without a secret."""
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(Misconfigured, match=complaint) as caught:
        load_access_keys(path)
    assert str(caught.value).startswith(str(path))
    assert "hush" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is refused in one line."""
    with pytest.raises(Misconfigured, match="cannot be read: No such file"):
        load_access_keys(tmp_path / "none.json")


def test_the_repr_of_a_key_shows_no_secret() -> None:
    """Neither the secret nor the STS token is in what a log or a traceback would show of a key."""
    key = AccessKey(AccessKeySecret("hush"))
    assert "hush" not in repr(key)
