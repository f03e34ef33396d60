from __future__ import annotations

import pytest

from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems

RIGHT = {
    "ApplyToken": {"Actions": "R,W", "ExpireTime": "1609434121000", "Resources": "a/#,b"},
    "CreateGroupId": {"GroupId": "GID_test"},
    "BatchQuerySessionByClientIds": {"ClientIdList.1": "a", "ClientIdList.2": "b"},
    "ListGroupId": {},
}


@pytest.mark.parametrize("action", RIGHT)
def test_what_the_catalog_accepts_has_no_problem(action: str) -> None:
    """InstanceId and RegionId may be left out: the client adds them."""
    assert problems(ACTIONS[action], RIGHT[action]) == []


@pytest.mark.parametrize(
    ("action", "change", "problem"),
    [
        ("ApplyToken", {"Resources": ""}, "Resources is missing: expected topic filters in dictionary order"),
        ("ApplyToken", {"Actions": "R,X"}, "Actions is not valid: expected R, W or R,W"),
        ("ApplyToken", {"InstanceId": ""}, "InstanceId is missing"),
        ("ApplyToken", {"Resource": "a"}, "ApplyToken has no parameter Resource: did you mean Resources?"),
        ("ApplyToken", {"resources": "a"}, "did you mean Resources?"),
        ("CreateGroupId", {"Xyzzy": "a"}, "CreateGroupId has no parameter Xyzzy: it has GroupId, InstanceId"),
        (
            "BatchQuerySessionByClientIds",
            {"ClientIdList": "a"},
            "BatchQuerySessionByClientIds has no parameter ClientIdList",
        ),
        (
            "BatchQuerySessionByClientIds",
            {f"ClientIdList.{n}": "a" for n in range(1, 12)},
            "ClientIdList has more than 10 values",
        ),
    ],
)
def test_each_problem_names_its_parameter(action: str, change: dict[str, str], problem: str) -> None:
    """The sentence names the parameter and what is expected."""
    [found] = problems(ACTIONS[action], RIGHT[action] | change)
    assert problem in found
