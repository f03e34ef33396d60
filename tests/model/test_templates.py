from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.devices import ClientId, parse_client_id
from app.model.globs import glob_matches
from app.model.templates import MalformedTemplate, NoGrant, Template
from app.model.topics import covers
from tests.model.test_topics import DESCRIPTION

DEVICE = parse_client_id("GID_plant@@@d1")


def test_each_variable_stands_for_its_part_of_the_device() -> None:
    """Client ID, group, device part and attributes are filled in, each as often as it is named."""
    template = Template.parse("{group_id}/p2p/{client_id}/{device_id}/{attr.site}-{attr.site}/#")
    assert template.fill(DEVICE, {"site": "north"}) == "GID_plant/p2p/GID_plant@@@d1/d1/north-north/#"
    assert Template.parse("plant/all").fill(DEVICE, {}) == "plant/all"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a/{x}", "unknown variable '{x}'"),
        ("a/{}", "unknown variable '{}'"),
        ("a/{attr.}", "unknown variable '{attr.}'"),
        ("a/{attr.a b}", "unknown variable"),
        ("a/{client_id.x}", "unknown variable"),
        ("a/{device_id", "unmatched brace"),
        ("a/device_id}", "unmatched brace"),
        ("a/{{device_id}}", "unmatched brace"),
        ("a/+{device_id}", "level of its own"),
        ("a/{device_id}#", "level of its own"),
        ("{device_id}/#/a", "before its last"),
        ("{client_id}/a", "parent topic"),
        ("$SYS/{device_id}", "begins with $"),
        ("", "empty"),
        ("a/" + "b" * 62 + "{device_id}", "65 characters"),
        ("a/{client_id}/" + "b" * 51, "65 characters"),
    ],
)
def test_a_template_that_gives_no_filter_for_any_device_is_refused(text: str, why: str) -> None:
    """A mistake in a template is found when the policy is read, and not when a device calls."""
    with pytest.raises(MalformedTemplate, match=re.escape(why)):
        Template.parse(text)


@pytest.mark.parametrize("value", ["+", "#", "a/b", "", "a b", "a,b", "$", "ü", "a\n", "{device_id}", "a" * 65])
def test_an_attribute_cannot_widen_a_topic(value: str) -> None:
    """A value with a wildcard, a level or nothing in it gives no grant, and the reason is given."""
    for text in ("plant/{attr.site}/up", "plant/x{attr.site}", "plant/{attr.site}"):
        with pytest.raises(NoGrant, match=re.escape(text)) as refusal:
            Template.parse(text).fill(DEVICE, {"site": value})
        assert DESCRIPTION.fullmatch(str(refusal.value))


def test_an_attribute_that_is_not_there_gives_no_grant() -> None:
    """The reason names the attribute that the template needs."""
    with pytest.raises(NoGrant, match=re.escape("{attr.site}")):
        Template.parse("plant/{attr.site}").fill(DEVICE, {"other": "x"})


@given(st.text(max_size=20))
def test_whatever_the_attribute_the_topic_stays_inside_its_level(value: str) -> None:
    """A filled template is covered by the template with ``+`` in the variable's place, or there is no grant."""
    try:
        topic_filter = Template.parse("plant/{attr.site}/up/#").fill(DEVICE, {"site": value})
    except NoGrant:
        return
    assert covers("plant/+/up/#", topic_filter)
    assert topic_filter.count("/") == 3
    assert "+" not in topic_filter


@given(st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True))
def test_every_parent_topic_that_a_template_gives_is_in_its_glob(value: str) -> None:
    """A variable or a wildcard in the first level counts as any name, so that no topic is left out."""
    for text in ("{attr.site}/x", "a-{attr.site}-{device_id}/x", "{attr.site}", "plant/{attr.site}", "+/x", "#"):
        template = Template.parse(text)
        assert glob_matches(template.parent_glob, template.fill(DEVICE, {"site": value}).split("/")[0])
    assert Template.parse("plant/{attr.site}").parent_glob == "plant"


def test_a_variable_of_the_device_cannot_be_given_by_an_attribute() -> None:
    """An attribute named ``device_id`` is ``{attr.device_id}`` and nothing else."""
    assert Template.parse("a/{device_id}").fill(ClientId("GID_plant@@@d1"), {"device_id": "victim"}) == "a/d1"
