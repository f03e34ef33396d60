"""The table of actions holds together, and says what the guide says."""

from __future__ import annotations

import re

import pytest

from app.cloud.client import CloudClient
from app.rpc.catalog import ACTIONS, UNSUPPORTED, Action
from app.rpc.codes import ERRORS, GATEWAY_ERRORS
from tests.processes import ROOT

CHAPTERS = {
    "10.1": "ApplyToken",
    "10.2": "QueryToken",
    "10.3": "RevokeToken",
    "11.1": "CreateGroupId",
    "11.2": "ListGroupId",
    "11.3": "DeleteGroupId",
    "12.1": "SendMessage",
    "13.1": "QuerySessionByClientId",
    "13.2": "BatchQuerySessionByClientIds",
    "14.1": "RegisterDeviceCredential",
    "14.2": "GetDeviceCredential",
    "14.3": "UnRegisterDeviceCredential",
    "14.4": "RefreshDeviceCredential",
    "": "CloseConnection",
}


def test_the_table_has_the_guide_s_thirteen_actions_and_one_newer() -> None:
    """Each chapter from 10.1 to 14.4 is one row; CloseConnection is in none."""
    assert {action.chapter: name for name, action in ACTIONS.items()} == CHAPTERS


@pytest.mark.parametrize("action", ACTIONS.values(), ids=lambda action: action.name)
def test_every_code_of_an_action_has_status_and_text(action: Action) -> None:
    """Each error code of an action is in the table of codes."""
    own = (action.malformed, action.wrong_combination, action.unknown_instance, action.failure)
    assert set(action.errors) <= set(ERRORS)
    assert set(own) <= set(action.errors)
    assert action.overflow in action.errors or action.overflow in GATEWAY_ERRORS


@pytest.mark.parametrize("action", ACTIONS.values(), ids=lambda action: action.name)
def test_every_action_needs_access_to_the_instance_and_a_permission_of_its_own(action: Action) -> None:
    """Chapter 6: mq:MqttInstanceAccess, and the action's."""
    assert [permission.action for permission in action.permissions] == ["mq:MqttInstanceAccess", f"mq:{action.name}"]


def test_the_page_of_actions_is_true() -> None:
    """``deploy/ACTIONS.md`` has the catalog's actions, the client's methods and files that are there."""
    page = (ROOT / "deploy/ACTIONS.md").read_text()
    rows = re.findall(r"^\| ([0-9.]+|newer) \| (\w+) \| `(\w+)` \|", page, re.MULTILINE)
    assert {chapter.replace("newer", ""): action for chapter, action, _ in rows} == CHAPTERS
    assert all(hasattr(CloudClient, method) for *_, method in rows)
    assert all((ROOT / path).is_file() for path in re.findall(r"`((?:app|tests)/[^`]+)`", page))


def test_sixteen_names_have_no_request_format() -> None:
    """Topics, inbound and outbound rules and status notices: four each, and none is also an action."""
    assert len(UNSUPPORTED) == 16
    assert not UNSUPPORTED & set(ACTIONS)


def test_a_list_is_read_in_the_order_of_its_numbers() -> None:
    """``NAME.N`` is sorted by N; empty values and other names are left out."""
    [listed, *_] = ACTIONS["BatchQuerySessionByClientIds"].parameters
    given = {"ClientIdList.10": "j", "ClientIdList.2": "b", "ClientIdList.1": "", "ClientIdList": "x", "Other.1": "y"}
    assert listed.values(given) == ["b", "j"]


@pytest.mark.parametrize(
    ("name", "parameter", "good", "bad"),
    [
        ("ApplyToken", "Actions", ["R", "W", "R,W"], ["W,R", "r", "RW", "R,W "]),
        ("ApplyToken", "ExpireTime", ["1609434121000"], ["-1", "1e3", "1" * 19, "\u0661"]),
        ("ApplyToken", "Resources", ["TopicA/+", "a,b/#"], ["a b", "\u4e3b"]),
        (
            "CreateGroupId",
            "GroupId",
            ["GID_abc", "GID-" + "x" * 60],
            ["GID_ab", "gid_abc", "GID_a.b", "GID_" + "x" * 61],
        ),
        (
            "SendMessage",
            "MqttTopic",
            ["TopicA", "a/b c", "a/p2p/GID_a@@@b"],
            ["a/+", "#", "/a", "$SYS/x", "a" * 65, "a\0"],
        ),
        ("RegisterDeviceCredential", "ClientId", ["GID_test@@@test"], ["GID_test", "GID_test@@@", "x" * 65]),
    ],
)
def test_a_parameter_keeps_its_rule(name: str, parameter: str, good: list[str], bad: list[str]) -> None:
    """The guide's samples pass; what its tables exclude does not."""
    [row] = [row for row in ACTIONS[name].parameters if row.name == parameter]
    assert all(row.rule.admits(value) for value in good)
    assert not any(row.rule.admits(value) for value in bad)
