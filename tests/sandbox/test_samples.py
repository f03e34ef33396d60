"""A successful answer of each action has exactly the fields of the guide's sample, in its order, in both formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from app.rpc.catalog import ACTIONS
from app.sandbox.server import SandboxConfig
from tests.sandbox.caller import Caller, in_ms

Shape = tuple[Any, ...]

DEVICE = {"ClientId": "GID_plant@@@d1"}
CREDENTIAL: Shape = (
    "RequestId",
    (
        "DeviceCredential",
        ("InstanceId", "DeviceAccessKeySecret", "CreateTime", "UpdateTime", "DeviceAccessKeyId", "ClientId"),
    ),
)
GROUP: Shape = ("Data", ("InstanceId", "CreateTime", "UpdateTime", "IndependentNaming", "GroupId"))
STATUS: Shape = ("OnlineStatusList", ("ClientId", "OnlineStatus"))

SAMPLES: dict[str, Shape] = {
    "ApplyToken": ("RequestId", "Token"),
    "QueryToken": ("RequestId", "TokenStatus"),
    "RevokeToken": ("RequestId",),
    "CreateGroupId": ("RequestId",),
    "ListGroupId": ("RequestId", GROUP, GROUP),
    "DeleteGroupId": ("RequestId",),
    "SendMessage": ("RequestId", "MsgId"),
    "QuerySessionByClientId": ("OnlineStatus", "RequestId"),
    "BatchQuerySessionByClientIds": (STATUS, STATUS, "RequestId"),
    "RegisterDeviceCredential": CREDENTIAL,
    "GetDeviceCredential": CREDENTIAL,
    "UnRegisterDeviceCredential": ("RequestId",),
    "RefreshDeviceCredential": CREDENTIAL,
    "CloseConnection": ("RequestId", "Code", "Message", "Success"),  # not in the guide: the vendor's page
}
"""Names as they are printed; a list of two is its name twice, which in XML it is."""

GIVEN: dict[str, dict[str, str]] = {
    "ApplyToken": {"Actions": "R", "Resources": "a/#", "ExpireTime": str(in_ms(3600))},
    "QueryToken": {"Token": "t"},
    "RevokeToken": {"Token": "t"},
    "CreateGroupId": {"GroupId": "GID_new"},
    "DeleteGroupId": {"GroupId": "GID_new"},
    "SendMessage": {"MqttTopic": "TopicA", "Payload": "test"},
    "BatchQuerySessionByClientIds": {"ClientIdList.1": "GID_test@0001", "ClientIdList.2": "GID_test@0002"},
}


def of_json(fields: Mapping[str, Any]) -> Shape:
    """Return the shape of an object."""

    def walk() -> Iterator[Any]:
        for name, value in fields.items():
            if isinstance(value, list):
                yield from ((name, of_json(item)) for item in value)
            else:
                yield (name, of_json(value)) if isinstance(value, dict) else name

    return tuple(walk())


def of_xml(element: ET.Element) -> Shape:
    """Return the shape of an element."""
    return tuple((child.tag, of_xml(child)) if len(child) else child.tag for child in element)


@pytest.fixture
def config(config: SandboxConfig) -> SandboxConfig:
    """A sandbox with one group, so that with another there are two, as in the sample."""
    return replace(config, groups=("GID_plant",))


@pytest.mark.parametrize("format_", ["JSON", "XML"])
async def test_each_action(cloud: Caller, format_: str) -> None:
    """Names, nesting and order are the sample's, and XML's root is the action's."""
    assert set(SAMPLES) == set(ACTIONS)
    await cloud.call("RegisterDeviceCredential", **DEVICE)
    for action in ACTIONS:
        if action == "RefreshDeviceCredential":
            await cloud.call("RegisterDeviceCredential", **DEVICE)
        reply = await cloud.call(action, Format=format_, **GIVEN.get(action, DEVICE))
        assert reply.status == 200, reply.text
        if format_ == "JSON":
            assert of_json(reply.json) == SAMPLES[action]
        else:
            root = ET.fromstring(reply.text)  # noqa: S314 (our own answer)
            assert (root.tag, of_xml(root)) == (f"{action}Response", SAMPLES[action])


async def test_values_are_spelled_as_in_the_samples(cloud: Caller) -> None:
    """XML writes true, false and whole numbers as the samples do; JSON has them as such."""
    reply = await cloud.call("ListGroupId", Format="XML")
    row = ET.fromstring(reply.text)[1]  # noqa: S314
    assert row.findtext("IndependentNaming") == "true"
    created = (await cloud.call("ListGroupId")).json["Data"][0]["CreateTime"]
    assert row.findtext("CreateTime") == str(created)
    asked = await cloud.call("QuerySessionByClientId", Format="XML", **DEVICE)
    assert ET.fromstring(asked.text).findtext("OnlineStatus") == "false"  # noqa: S314
