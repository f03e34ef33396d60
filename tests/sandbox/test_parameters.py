"""Every parameter rule of every action (chapters 10 to 14), walked along the catalog, in both formats."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from app.rpc.catalog import ACTIONS, Parameter
from app.rpc.codes import ERRORS, GATEWAY_ERRORS
from tests.sandbox.caller import Caller, in_ms
from tests.sandbox.device import Device

Connect = Callable[..., Awaitable[Device]]

DEVICE = "GID_plant@@@d1"
GROUP_ACTIONS = ("CreateGroupId", "ListGroupId", "DeleteGroupId")

BAD = {
    "Actions": ["X", "r", "RW", "W,R", "R,W,", " R"],
    "ExpireTime": ["soon", "-1", "1e13", "1.5", "9" * 30, "3600000", "\u0661", str(in_ms(30))],
    "Resources": ["a/#,", "a/b+", "a/#/b", "$SYS/#", "a b", "a/" + "x" * 63, "\u4e3b"],
    "GroupId": ["plant", "GID_", "GID_ab", "gid_plant", "GID_a.b", "GID_a b", "GID_" + "x" * 61, "GID_\u4e3b\u4e3b"],
    "MqttTopic": ["a/+", "#", "a/#", "/a", "$SYS/uploadToken", "a/" + "x" * 63, "a\0", "\u4e3b"],
    "Payload": ["x" * 65537],
    "ClientId": ["plant", "GID_plant", "GID_plant@@@", "GID_ab@@@d", DEVICE + "/#", "GID_plant@@@" + "d" * 53],
}
"""Values that are invalid by themselves: wrong type, unknown, out of range, too long."""

ANY_CLIENT_ID = ["x" * 65]
"""Chapter 13 asks for client IDs of any form; its own sample does not have the form of 11.1."""

TOGETHER: dict[str, list[dict[str, str | None]]] = {
    "ApplyToken": [
        {"Resources": "b/#,a/#"},
        {"Resources": "a/#,a/#"},
        {"Resources": ",".join(sorted(f"t/{number}" for number in range(101)))},
    ],
    "BatchQuerySessionByClientIds": [{f"ClientIdList.{number}": DEVICE for number in range(1, 12)}],
}
"""Values of which each is valid, but which are too many or out of order."""


def good() -> dict[str, dict[str, str]]:
    """Return parameters with which each action succeeds."""
    return {
        "ApplyToken": {"Actions": "R", "ExpireTime": str(in_ms(3600)), "Resources": "a/#"},
        "QueryToken": {"Token": "t"},
        "RevokeToken": {"Token": "t"},
        "CreateGroupId": {"GroupId": "GID_new"},
        "ListGroupId": {},
        "DeleteGroupId": {"GroupId": "GID_plant"},
        "SendMessage": {"MqttTopic": "a/x", "Payload": "sent"},
        "QuerySessionByClientId": {"ClientId": DEVICE},
        "BatchQuerySessionByClientIds": {"ClientIdList.1": DEVICE},
        "RegisterDeviceCredential": {"ClientId": DEVICE},
        "GetDeviceCredential": {"ClientId": DEVICE},
        "UnRegisterDeviceCredential": {"ClientId": DEVICE},
        "RefreshDeviceCredential": {"ClientId": DEVICE},
        "CloseConnection": {"ClientId": DEVICE},
    }


def bad_values(action: str, parameter: Parameter) -> list[str]:
    """Return what breaks the rule of one parameter."""
    session = ("QuerySessionByClientId", "BatchQuerySessionByClientIds", "CloseConnection")
    if action in session and parameter.name.startswith("ClientId"):
        return ANY_CLIENT_ID
    return BAD.get(parameter.name, [])


def refused(action: str) -> Iterator[tuple[dict[str, str | None], str]]:
    """Yield each change that makes a valid call invalid, and the code by which the guide refuses it."""
    of_groups = action in GROUP_ACTIONS
    for parameter in ACTIONS[action].parameters:
        malformed = "ParameterFieldCheckFailed" if of_groups else f"InvalidParameter.{parameter.name}"
        name = f"{parameter.name}.1" if parameter.kind == "RepeatList" else parameter.name
        if parameter.required:
            yield {name: None}, f"Missing{parameter.name}"
            yield {name: ""}, f"Missing{parameter.name}"
        for value in bad_values(action, parameter):
            spoilt: dict[str, str | None] = {name: value}
            yield spoilt, malformed
    yield {"InstanceId": "post-cn-other"}, "InstanceNotFound" if of_groups else "InstancePermissionCheckFailed"
    for change in TOGETHER.get(action, []):
        yield change, "ParameterCheckFailed"


def row_of(code: str) -> tuple[int, str]:
    """Return the documented status and text of a code."""
    for pattern, row in (*ERRORS.items(), *GATEWAY_ERRORS.items()):
        if match := re.fullmatch(re.escape(pattern).replace("%s", "(.+)"), code):
            return row.status, row.message.replace("%s", match[1] if match.groups() else "")
    raise AssertionError(code)


async def what_there_is(cloud: Caller, device: Device) -> list[Any]:
    """Return all that an action could have changed."""
    return [
        await cloud.control("GET", "tokens"),
        (await cloud.call("ListGroupId")).json["Data"],
        (await cloud.call("GetDeviceCredential", ClientId=DEVICE)).json["DeviceCredential"],
        device.over,
        device.payloads(),
    ]


@pytest.mark.parametrize("action", ACTIONS)
async def test_each_rule(cloud: Caller, connect: Connect, action: str) -> None:
    """What breaks a rule is refused with its code, status and text in either format, and changes nothing.

    The same call without that one change succeeds.
    """
    token = await cloud.token("R,W", "a/#")
    await cloud.call("RegisterDeviceCredential", ClientId=DEVICE)
    device = await connect(f"RW|{token}", DEVICE)
    await device.subscribe("a/#", 1)
    before = await what_there_is(cloud, device)
    whole = {**good()[action], **({"Token": token} if "Token" in good()[action] else {})}
    for change, code in refused(action):
        status, message = row_of(code)
        reply = await cloud.call(action, **{**whole, **change})
        assert (reply.status, reply.code) == (status, code), (change, reply.text)
        assert reply.json["Message"] == message
        assert list(reply.json) == ["RequestId", "HostId", "Code", "Message", "Recommend"]
        in_xml = await cloud.call(action, **{**whole, **change, "Format": "XML"})
        root = ET.fromstring(in_xml.text)  # noqa: S314 (our own answer)
        shown = (in_xml.status, root.tag, root.findtext("Code"), root.findtext("Message"))
        assert shown == (status, "Error", code, message)
        assert [child.tag for child in root] == ["RequestId", "HostId", "Code", "Message"]
    assert await device.publish("a/x", "last")
    await device.got(b"last")
    assert await what_there_is(cloud, device) == [*before[:-1], [b"last"]]
    assert (await cloud.call(action, **whole)).status == 200


def test_each_rule_is_walked() -> None:
    """No action of the catalog, and none of its parameters, is left out above."""
    assert set(good()) == set(ACTIONS)
    plain = {"InstanceId", "RegionId", "Token", "ClientIdList"}
    assert {row.name for action in ACTIONS.values() for row in action.parameters} == {*BAD, *plain}
