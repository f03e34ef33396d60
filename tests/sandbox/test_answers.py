"""Answers have the shapes of the guide's samples, down to the order of their elements."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from app.rpc.codes import ERRORS, GATEWAY_ERRORS
from app.sandbox.answers import WireFormat, refusal_of, render_error
from tests.sandbox.caller import Caller, in_ms


async def test_xml_results(cloud: Caller) -> None:
    """XML results have the action's root, RequestId first, then the action's field (10.1 to 10.3)."""
    applied = await cloud.call("ApplyToken", Format="XML", Actions="R", Resources="a/#", ExpireTime=str(in_ms(100)))
    root = ET.fromstring(applied.text)  # noqa: S314 (our own answer)
    assert (root.tag, [child.tag for child in root]) == ("ApplyTokenResponse", ["RequestId", "Token"])
    token = root.findtext("Token") or ""
    asked = await cloud.call("QueryToken", Format="XML", Token=token)
    root = ET.fromstring(asked.text)  # noqa: S314
    assert (root.tag, root.findtext("TokenStatus")) == ("QueryTokenResponse", "true")
    revoked = await cloud.call("RevokeToken", Format="XML", Token=token)
    root = ET.fromstring(revoked.text)  # noqa: S314
    assert (root.tag, [child.tag for child in root]) == ("RevokeTokenResponse", ["RequestId"])


async def test_xml_errors(cloud: Caller) -> None:
    """XML errors have RequestId, HostId, Code and Message, and the values of a caller cannot add elements."""
    signed = cloud.signed("QueryToken", Format="XML", Token="<a>&amp;") | {"Signature": "x"}
    reply = await cloud.send(form=signed)
    root = ET.fromstring(reply.text)  # noqa: S314
    assert (root.tag, [child.tag for child in root]) == ("Error", ["RequestId", "HostId", "Code", "Message"])
    assert root.findtext("HostId") == "onsmqtt.cn-hangzhou.aliyuncs.com"
    assert root.findtext("Code") == "SignatureDoesNotMatch"


async def test_every_code_can_be_made_to_occur(cloud: Caller) -> None:
    """Each code of chapter 9 and of the gateway is answered on demand in both formats, each with an ID of its own."""
    seen = set()
    for row in (*ERRORS.values(), *GATEWAY_ERRORS.values()):
        code = row.code.replace("%s", "Resources")
        message = row.message.replace("%s", "Resources" if code != row.code else "")
        await cloud.control("POST", "faults", {"action": "*", "fault": "error", "code": code, "times": 2})
        in_json = await cloud.call("QueryToken", Token="t")
        in_xml = await cloud.call("QueryToken", Token="t", Format="XML")
        assert (in_json.status, in_xml.status) == (row.status, row.status)
        assert (in_json.content_type, in_xml.content_type) == (
            "application/json;charset=utf-8",
            "text/xml;charset=utf-8",
        )
        root = ET.fromstring(in_xml.text)  # noqa: S314
        for body in (in_json.json, {child.tag: child.text or "" for child in root}):
            assert (body["Code"], body["Message"]) == (code, message)
            seen.add(body["RequestId"])
        assert in_json.json["Recommend"].endswith(f"requestId={in_json.json['RequestId']}")
    assert len(seen) == 2 * len(ERRORS.keys() | GATEWAY_ERRORS.keys())


def test_any_text_can_be_rendered_in_xml() -> None:
    """Markup is escaped, a carriage return survives, and what XML cannot write becomes a replacement character."""
    refusal = refusal_of("InvalidParameter.<a>&\"' ü€😀\t\n\r\x00\x1b\ufffe]]>")
    answer = render_error(refusal, WireFormat.XML, request_id="R", host_id="H")
    root = ET.fromstring(answer.body)  # noqa: S314
    assert root.findtext("Code") == "InvalidParameter.<a>&\"' ü€😀\t\n\r\ufffd\ufffd\ufffd]]>"


@pytest.mark.parametrize("code", [*ERRORS, *GATEWAY_ERRORS])
def test_every_code_of_the_catalog_has_a_refusal(code: str) -> None:
    """Every code of the catalog has a refusal with its status, and a pattern is filled with the parameter's name."""
    shown = code.replace("%s", "Resources")
    refusal = refusal_of(shown)
    assert refusal.code == shown
    assert refusal.status == {**ERRORS, **GATEWAY_ERRORS}[code].status
    assert "%s" not in refusal.message


def test_the_spelling_of_a_code_is_kept() -> None:
    """A code in another case of letters, as today's cloud sends some, keeps its spelling."""
    refusal = refusal_of("ApplyTokenOverFlow")
    assert (refusal.code, refusal.status) == ("ApplyTokenOverFlow", 400)
    assert refusal.message == ERRORS["ApplyTokenOverflow"].message


@pytest.mark.parametrize("code", ["NoSuchCode", "", "Missing", "InvalidParameter."])
def test_an_unknown_code(code: str) -> None:
    """A code that the catalog does not have raises ``KeyError``."""
    with pytest.raises(KeyError):
        refusal_of(code)
