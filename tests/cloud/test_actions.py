"""The actions beside those of tokens, and calls of any action."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.cloud.answers import read_refusal
from app.cloud.client import CloudClient
from app.cloud.errors import CloudError, ErrorKind
from app.model.secrets import AccessKeySecret
from tests.cloud.conftest import REQUEST_ID, Answer, Cloud, answer, drop, raw, refuse, soon

CREDENTIAL = {
    "InstanceId": "post-cn-test",
    "DeviceAccessKeySecret": "DC.very-secret",
    "CreateTime": 1605541382000,
    "UpdateTime": 1605541383000,
    "DeviceAccessKeyId": "DC.Z5fXh9sRRVufyLi6wo",
    "ClientId": "GID_test@@@d1",
}
GROUP = {
    "InstanceId": "post-cn-test",
    "CreateTime": 1564577317000,
    "UpdateTime": 1564577318000,
    "IndependentNaming": True,
    "GroupId": "GID_test",
}
DONE = answer({"RequestId": REQUEST_ID})
DEVICE = answer({"RequestId": REQUEST_ID, "DeviceCredential": CREDENTIAL})

ACTIONS: list[tuple[str, tuple[str, ...], Answer, str, dict[str, str]]] = [
    ("create_group_id", ("GID_test",), DONE, "CreateGroupId", {"GroupId": "GID_test"}),
    ("list_group_ids", (), answer({"RequestId": REQUEST_ID, "Data": [GROUP]}), "ListGroupId", {}),
    ("delete_group_id", ("GID_test",), DONE, "DeleteGroupId", {"GroupId": "GID_test"}),
    (
        "send_message",
        ("a/b", "payload +/&"),
        answer({"RequestId": REQUEST_ID, "MsgId": "7F"}),
        "SendMessage",
        {"MqttTopic": "a/b", "Payload": "payload +/&"},
    ),
    (
        "query_session",
        ("GID_test@@@d1",),
        answer({"RequestId": REQUEST_ID, "OnlineStatus": True}),
        "QuerySessionByClientId",
        {"ClientId": "GID_test@@@d1"},
    ),
    *(
        (method, ("GID_test@@@d1",), reply, action, {"ClientId": "GID_test@@@d1"})
        for method, reply, action in (
            ("register_device_credential", DEVICE, "RegisterDeviceCredential"),
            ("get_device_credential", DEVICE, "GetDeviceCredential"),
            ("refresh_device_credential", DEVICE, "RefreshDeviceCredential"),
            ("unregister_device_credential", DONE, "UnRegisterDeviceCredential"),
            ("close_connection", answer({"RequestId": REQUEST_ID, "Code": 200, "Success": True}), "CloseConnection"),
        )
    ),
]


@pytest.mark.parametrize(("method", "arguments", "reply", "action", "parameters"), ACTIONS, ids=[a[3] for a in ACTIONS])
async def test_each_action_sends_its_parameters_and_reads_its_answer(
    cloud: Cloud,
    client: CloudClient,
    method: str,
    arguments: tuple[str, ...],
    reply: Answer,
    action: str,
    parameters: dict[str, str],
) -> None:
    """What is sent is signed and named as in the guide; what comes back has the types of the guide's tables."""
    cloud.answers = [reply]
    result = await getattr(client, method)(*arguments, deadline=soon())
    [call] = cloud.calls
    assert call["Action"] == action
    assert call.items() >= parameters.items()
    if action == "SendMessage":
        assert result == "7F"
    elif action == "QuerySessionByClientId":
        assert result is True
    elif action == "ListGroupId":
        [group] = result
        assert (group.group_id, group.create_time, group.independent_naming) == ("GID_test", 1564577317000, True)
    elif reply is DEVICE:
        assert result.device_access_key_secret == AccessKeySecret("DC.very-secret")
        assert (result.client_id, result.update_time) == ("GID_test@@@d1", 1605541383000)
        assert "very-secret" not in repr(result)
    else:
        assert result is None


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"Code": 200, "Success": False}, "NotClosed"),
        ({"Code": "200", "Success": False}, "NotClosed"),
        ({"Code": 400, "Message": "No.", "Success": False}, "400"),
        ({"Code": ""}, ""),
        ({"Code": []}, ""),
    ],
)
async def test_only_a_code_of_200_is_no_refusal(
    cloud: Cloud, client: CloudClient, said: dict[str, object], code: str
) -> None:
    """The one action whose success has a Code has not succeeded with any other, nor without its word."""
    cloud.answers = [answer({"RequestId": REQUEST_ID, **said})]
    with pytest.raises(CloudError) as caught:
        await client.close_connection("GID_test@@@d1", deadline=soon())
    assert caught.value.code == code


@pytest.mark.parametrize("secret", [None, "", 7, {}])
async def test_a_credential_without_a_secret_is_none(cloud: Cloud, client: CloudClient, secret: object) -> None:
    """A device's access key whose secret is missing, empty or of another type is no answer."""
    cloud.answers = [
        answer({"RequestId": REQUEST_ID, "DeviceCredential": {**CREDENTIAL, "DeviceAccessKeySecret": secret}})
    ]
    with pytest.raises(CloudError, match="MalformedAnswer"):
        await client.get_device_credential("GID_test@@@d1", deadline=soon())


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("send_message", ("a", "b")), ("create_group_id", ("GID_test",)), ("delete_group_id", ("GID_test",))],
)
async def test_what_must_not_happen_twice_is_sent_once(
    cloud: Cloud, client: CloudClient, method: str, arguments: tuple[str, ...]
) -> None:
    """A message whose answer was lost may have been sent: it is not sent again, and the caller learns of it."""
    cloud.answers = [drop]
    with pytest.raises(CloudError) as caught:
        await getattr(client, method)(*arguments, deadline=soon())
    assert caught.value.uncertain
    assert len(cloud.calls) == 1


async def test_a_throttled_message_is_sent_again(cloud: Cloud, client: CloudClient) -> None:
    """A refusal is certain, so it is tried again as any other."""
    cloud.answers = [refuse("SystemOverflow", x_acs_retry_after="10"), answer({"RequestId": REQUEST_ID, "MsgId": "7F"})]
    assert await client.send_message("a", "b", deadline=soon()) == "7F"


async def test_any_call_returns_what_came_back(cloud: Cloud, client: CloudClient) -> None:
    """``call`` gives the very bytes, of a refusal too, after one attempt; what goes out is shown beforehand."""
    cloud.answers = [refuse("InternalError"), raw(b"<Error><Code>X</Code></Error>", "text/xml", 500)]
    shown: list[bytes] = []
    given = {"GroupId": "GID_test"}
    answered = await client.call("CreateGroupId", given, deadline=soon(), sending=shown.append)
    assert json.loads(answered.body)["Code"] == "InternalError"
    refusal = read_refusal(answered)
    assert refusal is not None
    assert (refusal.kind, refusal.request_id) == (ErrorKind.TRANSIENT, REQUEST_ID)
    assert b"Signature=" in shown[0]
    answered = await client.call("CreateGroupId", given, deadline=soon(), format_="XML")
    assert answered.body == b"<Error><Code>X</Code></Error>"
    assert [call["Format"] for call in cloud.calls] == ["JSON", "XML"]


async def test_any_call_is_checked_unless_told_not_to(cloud: Cloud, client: CloudClient) -> None:
    """What the catalog would refuse is not sent; unchecked, even the public parameters are the caller's."""
    cloud.answers = [DONE]
    with pytest.raises(CloudError, match="NotSent: GroupId is not valid: expected") as caught:
        await client.call("CreateGroupId", {"GroupId": "x"}, deadline=soon())
    assert (caught.value.kind, cloud.calls) == (ErrorKind.PARAMETER, [])
    await client.call("CreateGroupId", {"GroupId": "x", "Version": "1"}, deadline=soon(), checked=False)
    assert cloud.calls[0].items() >= {"GroupId": "x", "Version": "1"}.items()


XML: list[tuple[bytes, int, str | None]] = [
    (b"<CreateGroupIdResponse><RequestId>1</RequestId></CreateGroupIdResponse>", 200, None),
    (b"<Error><RequestId>1</RequestId><Code>PermissionCheckFailed</Code></Error>", 400, "PermissionCheckFailed"),
    (b"<Error><RequestId>1</RequestId><Code>PermissionCheckFailed</Code></Error>", 200, "PermissionCheckFailed"),
    (b"<CreateGroupIdResponse/>", 500, "MalformedAnswer"),
    (b"<Error>", 400, "MalformedAnswer"),
    (b"", 200, "MalformedAnswer"),
    (b'<!DOCTYPE a [<!ENTITY b "c">]><Error><Code>&b;</Code></Error>', 400, "MalformedAnswer"),
    ('<!DOCTYPE a [<!ENTITY b "c">]><Error><Code>&b;</Code></Error>'.encode("utf-16"), 400, "MalformedAnswer"),
]


@pytest.mark.parametrize(("body", "status", "code"), XML)
async def test_xml_is_read_as_json_is(
    cloud: Cloud, client: CloudClient, body: bytes, status: int, code: str | None
) -> None:
    """A refusal is known by its Code; what is no XML, or declares entities, is no answer."""
    cloud.answers = [raw(body, "text/xml;charset=utf-8", status)]
    answered: Any = await client.call("CreateGroupId", {"GroupId": "GID_test"}, deadline=soon(), format_="XML")
    refusal = read_refusal(answered)
    assert (refusal.code if refusal else None) == code
