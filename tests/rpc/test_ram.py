"""RAM policies: what they allow, what they refuse, and which documents are none (guide chapter 6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rpc.catalog import ACTIONS
from app.rpc.ram import MalformedPolicy, Need, first_refused, least_policy, needs_of, parse_ram_policy

INSTANCE = "post-cn-1"
TOPIC = f"acs:mq:*:*:topic/{INSTANCE}"
CALL = {"InstanceId": INSTANCE, "GroupId": "GID_one", "Resources": "plant/#"}


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    """Return a policy document; a statement allows ``mq:*`` on everything except where it says otherwise."""
    whole = [{"Effect": "Allow", "Action": "mq:*", "Resource": "*", **statement} for statement in statements]
    return {"Version": "1", "Statement": whole}


def refused(document: dict[str, Any], action: str, **call: str) -> str | None:
    """Return the resource that is refused first, or ``None``."""
    needs = needs_of(ACTIONS[action], {**CALL, **call}, region="cn-hangzhou", account="1001")
    need = first_refused([parse_ram_policy(document)], needs)
    return f"{need.action} {need.resource.removeprefix('acs:mq:cn-hangzhou:1001')}" if need else None


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([{}], None),
        ([{"Action": "*"}], None),
        ([{"Resource": ["acs:mq:*:*:*"]}], None),
        ([{"Resource": "acs:mq:cn-hangzhou:1001:*"}], None),
        ([{"Action": ["MQ:mqttINSTANCEaccess", "mq:applytoken"]}], None),
        ([{"Resource": [f"acs:mq:*:*:instance/{INSTANCE}", f"{TOPIC}/pl?nt"]}], None),
        ([{"Resource": [f"acs:mq:*:*:instance/{INSTANCE}", f"{TOPIC}/p*"]}], None),
        ([{"Resource": "acs:mq:cn-beijing:*:*"}], f"mq:MqttInstanceAccess :instance/{INSTANCE}"),
        ([{"Resource": "acs:mq:*:1002:*"}], f"mq:MqttInstanceAccess :instance/{INSTANCE}"),
        ([{"Resource": "acs:oss:*:*:*"}], f"mq:MqttInstanceAccess :instance/{INSTANCE}"),
        ([{"Resource": "acs:mq:*:*:instance/*"}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{"Action": "mq:MqttInstanceAccess"}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{"Resource": ["acs:mq:*:*:instance/*", f"{TOPIC}/Plant"]}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{"Resource": ["acs:mq:*:*:instance/*", f"{TOPIC}/pl?"]}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{"Resource": ["acs:mq:*:*:instance/*", "acs:mq:*:*"]}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{}, {"Effect": "Deny", "Resource": f"{TOPIC}/plant"}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{"Effect": "Deny", "Resource": f"{TOPIC}/PLANT"}, {}], f"mq:ApplyToken :topic/{INSTANCE}/plant"),
        ([{}, {"Effect": "Deny", "Resource": "acs:mq:*:*"}], f"mq:MqttInstanceAccess :instance/{INSTANCE}"),
        ([{}, {"Effect": "Deny", "Action": "mq:Revoke*"}], None),
    ],
)
def test_who_may_apply(statements: list[dict[str, Any]], expected: str | None) -> None:
    """ApplyToken needs the instance and each parent topic; what is not allowed is denied, and a deny wins."""
    assert refused(policy(*statements), "ApplyToken") == expected


def test_every_parent_topic_counts() -> None:
    """One topic that is not allowed is enough to refuse all."""
    document = policy({"Resource": ["acs:mq:*:*:instance/*", f"{TOPIC}/plant"]})
    assert refused(document, "ApplyToken", Resources="plant,plant/#") is None
    assert refused(document, "ApplyToken", Resources="plant/#,vault/x") == f"mq:ApplyToken :topic/{INSTANCE}/vault"


@pytest.mark.parametrize("resources", ["#", "+/a", "plant/#,+"])
def test_a_wildcard_for_a_parent_topic_is_refused(resources: str) -> None:
    """A token for every topic would reach what a Deny names, so not even an Allow of everything permits it."""
    assert refused(policy({}), "ApplyToken", Resources=resources)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("QueryToken", ""),
        ("RevokeToken", ""),
        ("CreateGroupId", f":groupId/{INSTANCE}/GID_one"),
        ("DeleteGroupId", f":groupId/{INSTANCE}/GID_one"),
        ("ListGroupId", f":groupId/{INSTANCE}/*"),
        ("SendMessage", f":instance/{INSTANCE}"),
        ("CloseConnection", f":instance/{INSTANCE}"),
    ],
)
def test_what_the_other_actions_need(action: str, resource: str) -> None:
    """An action needs ``mq:MqttInstanceAccess`` and itself, on the resource of chapter 6."""
    assert refused(policy({"Action": "mq:MqttInstanceAccess"}), action) == f"mq:{action} {resource}"
    access = policy({"Action": f"mq:{action}"})
    assert (refused(access, action) or "").startswith("mq:MqttInstanceAccess")
    assert refused(policy({"Action": ["mq:MqttInstanceAccess", f"mq:{action}"]}), action) is None


def test_without_a_policy_nothing_is_allowed() -> None:
    """A key with an empty list of policies may do nothing."""
    need = Need("mq:QueryToken", "acs:mq:cn-hangzhou:1001")
    assert first_refused([], [need]) == need


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "the policy: not an object"),
        ({"Version": "1"}, "Statement: missing"),
        ({"Statement": []}, "Version: missing"),
        ({"Version": 1, "Statement": [{}]}, "Version: 1 is not a version"),
        ({"Version": "1", "Statement": []}, "Statement: not a list of"),
        ({"Version": "1", "Statement": {}}, "Statement: not a list of"),
        ({"Version": "1", "Statement": ["Allow"]}, r"Statement\[0\]: not an object"),
        ({"Version": "1", "Statement": [{}], "Id": "x"}, "Id: not supported"),
        (policy({}, {"Condition": {}}), r"Statement\[1\].Condition: not supported"),
        (policy({"NotAction": "mq:*"}), r"Statement\[0\].NotAction: not supported"),
        (policy({"Principal": "*"}), r"Statement\[0\].Principal: not supported"),
        (policy({"Effect": "allow"}), r"Statement\[0\].Effect: 'allow' is not a valid effect"),
        (policy({"Action": []}), r"Statement\[0\].Action: not a string or a list"),
        (policy({"Action": 1}), r"Statement\[0\].Action: not a string or a list"),
        (policy({"Action": ["mq:*", 1]}), r"Statement\[0\].Action\[1\]: 1 is not a string"),
        (policy({"Action": "ApplyToken"}), r"Statement\[0\].Action: 'ApplyToken' is not a valid"),
        (policy({"Resource": [None]}), r"Statement\[0\].Resource\[0\]: None"),
        (policy({"Resource": "plant"}), r"Statement\[0\].Resource: 'plant' is not a valid"),
        (policy({"Resource": "acs:mq:*"}), r"Statement\[0\].Resource: 'acs:mq:\*' is not a valid"),
        (policy({"Resource": "arn:mq:*:*:*"}), r"Statement\[0\].Resource: 'arn:mq"),
        ({"Version": "1", "Statement": [{"Effect": "Allow", "Action": "*"}]}, r"Statement\[0\].Resource: missing"),
    ],
)
def test_an_invalid_document_is_refused_with_the_place_of_its_mistake(document: object, complaint: str) -> None:
    """The message begins with the place; a condition is refused, because ignoring it would allow too much."""
    with pytest.raises(MalformedPolicy, match=f"^{complaint}"):
        parse_ram_policy(document)


TOPICS = st.sets(st.sampled_from(["plant", "plan", "vault", "v", "plant-2"]), min_size=1, max_size=3)


@given(st.sets(st.sampled_from(sorted(ACTIONS)), min_size=1), TOPICS, st.sampled_from(sorted(ACTIONS)), TOPICS)
def test_the_least_policy_allows_what_it_was_made_for_and_no_more(
    actions: set[str], topics: set[str], asked: str, resources: set[str]
) -> None:
    """A call is allowed if and only if its action, instance and parent topics are those the policy was made for."""
    document = least_policy(sorted(actions), INSTANCE, topics)
    allowed = asked in actions and (asked != "ApplyToken" or resources <= topics)
    call = {"Resources": ",".join(f"{topic}/#" for topic in sorted(resources))}
    assert (refused(document, asked, **call) is None) == allowed
    if asked not in ("QueryToken", "RevokeToken"):  # their row of chapter 6 names no instance
        assert refused(document, asked, InstanceId="post-cn-2", **call) is not None


def test_the_least_policy_names_no_topic_twice() -> None:
    """A pattern that another one reaches is left out."""
    document = least_policy(["ApplyToken"], INSTANCE, ["plant*", "plant-1", "vault", "plant*a"])
    assert document["Statement"][1] == {
        "Effect": "Allow",
        "Action": ["mq:ApplyToken"],
        "Resource": [f"{TOPIC}/plant*", f"{TOPIC}/vault"],
    }
    assert document["Statement"][0]["Resource"] == [f"acs:mq:*:*:instance/{INSTANCE}"]
