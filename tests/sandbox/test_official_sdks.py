"""Both official Python SDKs can call every action, with both kinds of signature, and read every error."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException
from aliyunsdkcore.acs_exception.exceptions import ServerException as ClassicException

from app.model.secrets import AccessKeySecret
from app.rpc.codes import ERRORS, GATEWAY_ERRORS
from app.rpc.signature import connect_password
from app.sandbox.server import Sandbox, SandboxConfig, start_sandbox
from tests.sandbox.caller import INSTANCE, Caller, in_ms
from tests.sandbox.device import Device
from tests.sandbox.sdks import FORGIVING, WAYS, Sdk, call_classic, call_newer, classic, code_of, newer, sdk_of

pytestmark = FORGIVING

Connect = Callable[..., Awaitable[Device]]

ON: dict[str, Any] = {"InstanceId": INSTANCE}
SENSOR = {**ON, "ClientId": "GID_sdk@@@sensor"}
CREDENTIAL = {
    "ClientId": str,
    "CreateTime": int,
    "DeviceAccessKeyId": str,
    "DeviceAccessKeySecret": str,
    "InstanceId": str,
    "UpdateTime": int,
}


@pytest.fixture(params=WAYS)
def sdk(request: pytest.FixtureRequest, sandbox: Sandbox) -> Sdk:
    """Each SDK in each way of signing and calling."""
    return sdk_of(request.param, sandbox)


def applying(**change: Any) -> dict[str, Any]:
    """Return the parameters of an ApplyToken."""
    return {
        "Actions": "R,W",
        "ExpireTime": in_ms(3600),
        "InstanceId": INSTANCE,
        "Resources": "a/+,b/~*/#",
        **change,
    }


def kinds(fields: dict[str, Any]) -> dict[str, type]:
    """Return each field's type."""
    return {name: type(value) for name, value in fields.items()}


async def sign_in(connect: Connect, credential: dict[str, Any], client_id: str = SENSOR["ClientId"]) -> Device:
    """Connect with a device credential."""
    secret = AccessKeySecret(credential["DeviceAccessKeySecret"])
    username = f"DeviceCredential|{credential['DeviceAccessKeyId']}|{credential['InstanceId']}"
    return await connect(connect_password(secret, client_id).reveal(), client_id, username=username)


async def test_tokens(sdk: Sdk) -> None:
    """A token is applied for, valid, revoked, and then invalid (chapter 10)."""
    applied = await sdk("ApplyToken", applying())
    assert kinds(applied) == {"RequestId": str, "Token": str}
    given = {**ON, "Token": applied["Token"]}
    queried = await sdk("QueryToken", given)
    assert kinds(queried) == {"RequestId": str, "TokenStatus": bool}
    assert queried["TokenStatus"] is True
    assert kinds(await sdk("RevokeToken", given)) == {"RequestId": str}
    assert (await sdk("QueryToken", given))["TokenStatus"] is False


async def test_groups(sdk: Sdk) -> None:
    """Groups that are created are listed, the newest first, with every field; what is deleted is gone (chapter 11)."""
    before = await sdk("ListGroupId", ON)
    began_ms = in_ms(0)
    for group in ("GID_one", "GID-two"):
        assert kinds(await sdk("CreateGroupId", {**ON, "GroupId": group})) == {"RequestId": str}
    listed = await sdk("ListGroupId", ON)
    assert kinds(listed) == {"RequestId": str, "Data": list}
    newest, second, *rest = listed["Data"]
    assert rest == before["Data"]
    for row, group in ((newest, "GID-two"), (second, "GID_one")):
        assert began_ms <= row["CreateTime"] == row["UpdateTime"] <= in_ms(0)
        assert (row["InstanceId"], row["GroupId"], row["IndependentNaming"]) == (INSTANCE, group, True)
    assert kinds(await sdk("DeleteGroupId", {**ON, "GroupId": "GID_one"})) == {"RequestId": str}
    assert (await sdk("ListGroupId", ON))["Data"] == [newest, *rest]


async def test_credentials_messages_and_sessions(sdk: Sdk, connect: Connect) -> None:
    """A registered device signs in, is online and gets a message; a refreshed or unregistered secret is refused.

    Chapters 12 to 14.
    """
    await sdk("CreateGroupId", {**ON, "GroupId": "GID_sdk"})
    registered = await sdk("RegisterDeviceCredential", SENSOR)
    assert kinds(registered) == {"RequestId": str, "DeviceCredential": dict}
    old = registered["DeviceCredential"]
    assert kinds(old) == CREDENTIAL
    assert {**old, **SENSOR, "UpdateTime": old["CreateTime"]} == old
    assert (await sdk("GetDeviceCredential", SENSOR))["DeviceCredential"] == old
    device = await sign_in(connect, old)
    assert device.code == 0
    queried = await sdk("QuerySessionByClientId", SENSOR)
    assert kinds(queried) == {"RequestId": str, "OnlineStatus": bool}
    assert queried["OnlineStatus"] is True
    batch = await sdk("BatchQuerySessionByClientIds", {**ON, "ClientIdList": ["GID_sdk@@@away", SENSOR["ClientId"]]})
    assert batch["OnlineStatusList"] == [
        {"ClientId": "GID_sdk@@@away", "OnlineStatus": False},
        {"ClientId": SENSOR["ClientId"], "OnlineStatus": True},
    ]
    await device.subscribe("t/#", 1)
    sent = await sdk("SendMessage", {**ON, "MqttTopic": "t/x", "Payload": "für dich + %20 &"})
    assert re.fullmatch("[0-9A-F]{32}", sent["MsgId"])
    assert await device.got("für dich + %20 &".encode()) == ("t/x", "für dich + %20 &".encode(), 1, False)
    new = (await sdk("RefreshDeviceCredential", SENSOR))["DeviceCredential"]
    assert new["DeviceAccessKeySecret"] != old["DeviceAccessKeySecret"]
    await device.cut()
    assert (await sign_in(connect, old)).code != 0
    assert (await sign_in(connect, new)).code == 0
    assert kinds(await sdk("UnRegisterDeviceCredential", SENSOR)) == {"RequestId": str}
    assert (await sign_in(connect, new)).code != 0
    assert (await sdk("QuerySessionByClientId", SENSOR))["OnlineStatus"] is False


async def test_close_connection(sandbox: Sandbox, cloud: Caller, connect: Connect) -> None:
    """CloseConnection, which the newer SDK alone has, ends a connection and answers every field of its model."""
    device = await connect(f"R|{await cloud.token('R', 'a/#')}")
    given = {**ON, "ClientId": "GID_plant@@@d1"}
    body = await call_newer(newer(sandbox), "CloseConnection", given)
    assert kinds(body) == {"RequestId": str, "Code": int, "Message": str, "Success": bool}
    assert (body["Code"], body["Message"], body["Success"]) == (200, "operation success.", True)
    await device.cut()


@pytest.mark.parametrize("way", ["acs3-async", "classic"])
async def test_answers_agree_after_a_restart(config: SandboxConfig, way: str) -> None:
    """After a restart what was created is listed, what was refreshed signs in, the old not, and the deleted is gone."""
    other = {**ON, "ClientId": "GID_sdk@@@other"}
    sandbox = await start_sandbox(config)
    sdk = sdk_of(way, sandbox)
    for group in ("GID_sdk", "GID_gone"):
        await sdk("CreateGroupId", {**ON, "GroupId": group})
    await sdk("DeleteGroupId", {**ON, "GroupId": "GID_gone"})
    old = (await sdk("RegisterDeviceCredential", SENSOR))["DeviceCredential"]
    new = (await sdk("RefreshDeviceCredential", SENSOR))["DeviceCredential"]
    lost = (await sdk("RegisterDeviceCredential", other))["DeviceCredential"]
    await sdk("UnRegisterDeviceCredential", other)
    token = (await sdk("ApplyToken", applying()))["Token"]
    groups = (await sdk("ListGroupId", ON))["Data"]
    await sandbox.stop()
    sandbox = await start_sandbox(config)
    devices: list[Device] = []

    async def connect(password: str, client_id: str, username: str) -> Device:
        devices.append(Device(sandbox.mqtt_port, client_id, password, username=username))
        await devices[-1].connect()
        return devices[-1]

    sdk = sdk_of(way, sandbox)
    assert (await sdk("ListGroupId", ON))["Data"] == groups
    assert groups[0]["GroupId"] == "GID_sdk"
    assert (await sdk("GetDeviceCredential", SENSOR))["DeviceCredential"] == new
    assert [
        (await sign_in(connect, old)).code,
        (await sign_in(connect, new)).code,
        (await sign_in(connect, lost, other["ClientId"])).code,
    ] == [135, 0, 135]
    with pytest.raises((ClientException, ClassicException)) as caught:
        await sdk("GetDeviceCredential", other)
    assert code_of(caught.value) == "ParameterCheckFailed"
    assert (await sdk("QueryToken", {**ON, "Token": token}))["TokenStatus"] is True
    for device in devices:
        await device.close()
    await sandbox.stop()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ApplyToken", {"Actions": "X"}, "InvalidParameter.Actions"),
    ("ApplyToken", {"ExpireTime": 1}, "InvalidParameter.ExpireTime"),
    ("ApplyToken", {"InstanceId": "other"}, "InstancePermissionCheckFailed"),
    ("ApplyToken", {"Resources": "b,a"}, "ParameterCheckFailed"),
    ("ApplyToken", {"Resources": "$SYS/#"}, "InvalidParameter.Resources"),
    ("ApplyToken", {"Resources": ""}, "MissingResources"),
    ("CreateGroupId", {"GroupId": "GID_plant"}, "GroupIdAlreadyExsited"),
    ("CreateGroupId", {"GroupId": "plant"}, "ParameterFieldCheckFailed"),
    ("DeleteGroupId", {"GroupId": "GID_unknown"}, "ResourcePermissionCheckFailed"),
    ("ListGroupId", {"InstanceId": "other"}, "InstanceNotFound"),
    ("SendMessage", {"MqttTopic": "a/#", "Payload": "x"}, "InvalidParameter.MqttTopic"),
    ("BatchQuerySessionByClientIds", {"ClientIdList": ["x"] * 11}, "ParameterCheckFailed"),
    ("RegisterDeviceCredential", {"ClientId": "GID_unknown@@@d"}, "PermissionCheckFailed"),
    ("GetDeviceCredential", {"ClientId": "GID_plant@@@d"}, "ParameterCheckFailed"),
]


async def test_refusals(sdk: Sdk) -> None:
    """A refusal reaches the caller as the SDK's own exception with the cloud's code."""
    for action, change, code in REFUSED:
        with pytest.raises((ClientException, ClassicException)) as caught:
            await sdk(action, {**(applying() if action == "ApplyToken" else ON), **change})
        assert code_of(caught.value) == code


async def test_every_error(sandbox: Sandbox, cloud: Caller) -> None:
    """Every code of the catalog, sent by a fault, is raised by both SDKs with its code, status and message."""
    client, old = newer(sandbox), classic()
    for row in (*ERRORS.values(), *GATEWAY_ERRORS.values()):
        code = row.code.replace("%s", "Resources")
        await cloud.control("POST", "faults", {"action": "ApplyToken", "fault": "error", "code": code, "times": 2})
        with pytest.raises((ClientException, ServerException)) as caught:
            await call_newer(client, "ApplyToken", applying())
        assert (caught.value.code, caught.value.status_code) == (code, row.status)
        assert isinstance(caught.value, ServerException) == (row.status >= 500)
        with pytest.raises(ClassicException) as classically:
            await call_classic(old, sandbox.port, "ApplyToken", applying())
        assert (classically.value.get_error_code(), classically.value.get_http_status()) == (code, row.status)
        assert classically.value.get_error_msg() == row.message.replace("%s", "Resources" * ("%s" in row.code))


async def test_wrong_secrets(sandbox: Sandbox) -> None:
    """A wrong secret is refused; the classic SDK, which compares strings to sign, reports it as a wrong secret.

    For each action of the guide: the strings agree whatever the parameters are.
    """
    for options in ({}, {"signature_algorithm": "v2"}):
        with pytest.raises(ClientException) as caught:
            await call_newer(newer(sandbox, "wrong", **options), "ApplyToken", applying())
        assert caught.value.code == "SignatureDoesNotMatch"
    client = classic("wrong")
    for action, given in (
        ("ApplyToken", applying()),
        ("ListGroupId", ON),
        ("CreateGroupId", {**ON, "GroupId": "GID_é ü"}),
        ("SendMessage", {**ON, "MqttTopic": "a/b", "Payload": "a b+c%2B*~/\n=&'\"é"}),
        ("BatchQuerySessionByClientIds", {**ON, "ClientIdList": [f"GID_plant@@@{n}" for n in range(12)]}),
        ("RegisterDeviceCredential", SENSOR),
    ):
        with pytest.raises(ClassicException) as classically:
            await call_classic(client, sandbox.port, action, given)
        assert classically.value.get_error_code() == "InvalidAccessKeySecret"
