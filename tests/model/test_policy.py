from __future__ import annotations

import re

import pytest

from app.model.devices import parse_client_id
from app.model.grants import parse_scope
from app.model.policy import Policy
from app.model.policy_file import parse_policy
from app.model.templates import NoGrant

SENSOR = parse_client_id("GID_plant@@@d1")
GATEWAY = parse_client_id("GID_plant@@@gw-7")
STRANGER = parse_client_id("GID_other@@@d1")

POLICY = parse_policy(
    b"""
[roles.gateway]
match = ["GID_plant@@@gw-*", "GID_edge@@@*"]
publish = ["plant/#"]

[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/{attr.site}/all"]

[roles.spare]
subscribe = ["+/spare"]
""",
    "policy.toml",
)


def _role(policy: Policy, client_id: str, named: str | None = None) -> str | None:
    role = policy.role_for(parse_client_id(client_id), named)
    return role.name if role else None


def test_the_first_role_in_the_file_that_matches_wins() -> None:
    """A client ID that two roles match has the first of them."""
    assert _role(POLICY, GATEWAY) == "gateway"
    assert _role(POLICY, SENSOR) == "sensor"
    assert _role(POLICY, STRANGER) is None


def test_a_role_in_the_devices_record_wins_over_any_match() -> None:
    """The record's role counts, also one without a match; an empty one does not."""
    assert _role(POLICY, GATEWAY, "spare") == "spare"
    assert _role(POLICY, STRANGER, "sensor") == "sensor"
    assert _role(POLICY, SENSOR, "") == "sensor"


def test_a_role_that_is_not_in_the_policy_gives_none_and_not_the_matching_one() -> None:
    """A role that was removed from the policy takes its devices' rights away, and gives them no others."""
    assert _role(POLICY, SENSOR, "removed") is None


def test_a_role_grants_its_filled_templates() -> None:
    """The grant is canonical and holds each template with the device's values."""
    role = POLICY.role_for(SENSOR, None)
    assert role is not None
    granted = role.grant_for(SENSOR, {"site": "north"})
    assert granted == parse_scope("pub:plant/d1/up/# sub:plant/d1/down/# sub:plant/north/all")
    assert granted.covers(parse_scope("sub:plant/d1/down/x"))
    assert granted.first_uncovered(parse_scope("sub:plant/d1/down/x pub:plant/d2/up/x")) == "pub:plant/d2/up/x"


def test_one_template_that_cannot_be_filled_takes_the_whole_grant() -> None:
    """A device never gets only a part of its role: it would seem to work, and fail later."""
    role = POLICY.role_for(SENSOR, None)
    assert role is not None
    with pytest.raises(NoGrant, match=re.escape("{attr.site}")):
        role.grant_for(SENSOR, {"site": "north/#"})


def test_explain_names_the_rule_and_each_templates_result() -> None:
    """What explain says of a device is what it gets."""
    explained = POLICY.explain(SENSOR, None, {"site": "north"})
    assert (explained.role, explained.has_grant) == ("sensor", True)
    assert "GID_plant@@@*" in explained.rule
    role = POLICY.role_for(SENSOR, None)
    assert role is not None
    permissions = {f"{each.verb}:{each.result}" for each in explained.templates}
    assert permissions == set(role.grant_for(SENSOR, {"site": "north"}).permissions())


def test_explain_tells_why_there_is_no_grant() -> None:
    """No role, a role that is not there, and a template that fails each have their reason."""
    assert "no match" in POLICY.explain(STRANGER, None, {}).rule
    assert "role removed, which the policy does not have" in POLICY.explain(SENSOR, "removed", {}).rule
    assert not POLICY.explain(STRANGER, None, {}).has_grant
    explained = POLICY.explain(SENSOR, "sensor", {})
    assert "record names role sensor" in explained.rule
    assert not explained.has_grant
    assert [each.result is None for each in explained.templates] == [False, False, True]
    assert "{attr.site}" in str(explained.templates[2].reason)


def test_check_warns_of_overlaps_and_of_leading_wildcards() -> None:
    """Two roles that can match one client ID are pointed out with their globs and the one that wins."""
    (overlap,) = POLICY.overlaps()
    assert (overlap.winner, overlap.loser) == ("gateway", "sensor")
    overlapping, wildcard = POLICY.warnings()
    assert "roles.gateway.match GID_plant@@@gw-* and roles.sensor.match GID_plant@@@*" in overlapping
    assert "gateway, the first in the file, wins" in overlapping
    assert "+/spare begins with a wildcard" in wildcard
