from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.cloud.credentials import Credentials
from app.cloud.exchange import HIDDEN
from app.cloud.quota import QuotaExhausted
from app.errors import Unavailable
from app.model.operators import OperatorRole
from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import ACTIONS
from app.service.audit import AuditFilter, AuditLog
from app.store.audit import AuditEntry
from app.web.route import SERVICES
from tests.sandbox.test_samples import DEVICE, GIVEN
from tests.web.conftest import ACCESS_KEY_ID, ACCESS_KEY_SECRET, INSTANCE_ID, OwnCloud
from tests.web.console.conftest import Browser, Seen, SignedIn

TOKEN = "A-token+of/somebody=="
MARKUP = '<script>alert(1)</script>"&\x01'
VALID = {"ApplyToken": {"Actions": "R,W", "Resources": "plant/all"}}


def filled(action: str) -> dict[str, str]:
    """Return the guide's sample of a call as somebody fills it into the form."""
    given = GIVEN.get(action, DEVICE if any(each.name == "ClientId" for each in ACTIONS[action].parameters) else {})
    given = {**given, **VALID.get(action, {})}
    lines = [value for name, value in given.items() if name.startswith("ClientIdList.")]
    form = {name: value for name, value in given.items() if not name.startswith("ClientIdList.")}
    return {**form, **({"ClientIdList": "\r\n".join(lines)} if lines else {})}


def confirmed(seen: Seen) -> dict[str, str]:
    """Return the form of the page that asks."""
    match = re.search(r'name="confirmed" value="([^"]+)"', seen.text)
    assert match, seen.text
    return {"confirmed": html.unescape(match[1])}


async def call(admin: Browser, action: str, form: Mapping[str, str]) -> Seen:
    """Call an action, and say yes where that is asked."""
    seen = await admin.post(f"/admin/explorer/{action}", {"format": "JSON", **form})
    assert seen.status == 200, seen.text
    if ACTIONS[action].changes:
        assert f"Call {action}?" in seen.text
        seen = await admin.post(f"/admin/explorer/{action}", confirmed(seen))
    assert seen.status == 200, seen.text
    return seen


def block(seen: Seen, heading: str) -> str:
    """Return the first block of code below a heading that begins so."""
    text = html.unescape(seen.text)
    match = re.search(rf"<h[23][^>]*>{heading}.*?<pre[^>]*><code>(.*?)</code></pre>", text, re.DOTALL)
    assert match, heading
    return match[1]


async def lines(server: TestClient[Any, Any]) -> list[AuditEntry]:
    """Return what the audit has of calls by hand, the newest first."""
    audit_log = AuditLog(server.app[SERVICES].stores.audit, server.app[SERVICES].stores.tokens)
    return (await audit_log.search_events(AuditFilter(what="called"))).entries


async def test_every_action_is_listed(signed_in: SignedIn) -> None:
    """The thirteen of the guide and CloseConnection, each with what it does and whether it changes anything."""
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await admin.get("/admin/explorer")
    found = re.findall(
        r"<tr>\s*<td[^>]*><a[^>]*>(\w+)</a></td>\s*<td[^>]*>([^<]*)</td>(.*?)</tr>", seen.text, re.DOTALL
    )
    assert [name for name, _, _ in found] == list(ACTIONS)
    assert all(does for _, does, _ in found)
    reads = {name for name, _, rest in found if "read-only" in rest}
    assert reads == {
        "QueryToken",
        "ListGroupId",
        "QuerySessionByClientId",
        "BatchQuerySessionByClientIds",
        "GetDeviceCredential",
    }
    for name in ("Nonsense", "querytoken", "%3Cb%3E"):
        assert (await admin.get(f"/admin/explorer/{name}")).status == 404
        assert (await admin.post(f"/admin/explorer/{name}")).status == 404


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
async def test_each_form_is_the_catalogs(signed_in: SignedIn, action: Any) -> None:
    """A labelled field for each parameter, with its rule in words; the instance is filled in already."""
    seen = await (await signed_in(OperatorRole.ADMIN)).get(f"/admin/explorer/{action.name}")
    text = html.unescape(seen.text)
    for parameter in action.parameters:
        assert f'<label for="p-{parameter.name}"' in text
        assert f'name="{parameter.name}"' in text
        assert parameter.rule.says in text
    assert f'name="InstanceId" type="text" value="{INSTANCE_ID}"' in text


async def test_each_action_filled_as_in_the_guide_is_answered(
    signed_in: SignedIn, cloud: OwnCloud, server: TestClient[Any, Any]
) -> None:
    """All of them, in both formats; each is one call at the cloud, and one line in the audit."""
    admin = await signed_in(OperatorRole.ADMIN)
    await call(admin, "RegisterDeviceCredential", DEVICE)
    for action in ACTIONS:
        for format_ in ("JSON", "XML"):
            if action in {"UnRegisterDeviceCredential", "RefreshDeviceCredential"}:
                await call(admin, "RegisterDeviceCredential", DEVICE)
            if (action, format_) == ("CreateGroupId", "XML"):
                await call(admin, "DeleteGroupId", filled("DeleteGroupId"))
            if (action, format_) == ("DeleteGroupId", "XML"):
                await call(admin, "CreateGroupId", filled("CreateGroupId"))
            before = sum((await cloud.calls(action)).values())
            seen = await call(admin, action, {**filled(action), "format": format_})
            assert "The call succeeded." in seen.text, seen.text
            assert sum((await cloud.calls(action)).values()) == before + 1
            assert "RequestId" in block(seen, "Response")
            assert (await lines(server))[0].detail.split()[0] == action


async def test_the_request_is_shown_as_it_was_signed(signed_in: SignedIn, cloud: OwnCloud) -> None:
    """Parameters, string to sign and signature belong together, in the page and in the line for curl."""
    admin = await signed_in(OperatorRole.ADMIN)
    form = {"ClientIdList": "GID_plant@@@a\r\n\r\n GID_plant@@@b ", "show_secrets": "true"}
    seen = await call(admin, "BatchQuerySessionByClientIds", form)
    assert f"POST {cloud.url}/" in seen.text
    string_to_sign, signed = block(seen, "String to sign"), block(seen, "Signature")
    assert signature.rpc_signature(AccessKeySecret(ACCESS_KEY_SECRET), string_to_sign) == signed
    words = shlex.split(block(seen, "With curl").replace("\\\n", ""))
    assert words[:3] == ["curl", "-sS", f"{cloud.url}/"]
    fields = dict(word.split("=", 1) for word in words[4::2])
    assert (fields["ClientIdList.1"], fields["ClientIdList.2"]) == ("GID_plant@@@a", "GID_plant@@@b")
    assert signature.rpc_string_to_sign("POST", fields) == string_to_sign
    assert fields["Signature"] == signed
    assert ACCESS_KEY_SECRET not in seen.text


async def test_what_changes_something_is_asked_about_first(
    signed_in: SignedIn, cloud: OwnCloud, server: TestClient[Any, Any]
) -> None:
    """The page repeats the parameters; nothing is sent or written down before the yes, and then what was shown is."""
    admin = await signed_in(OperatorRole.ADMIN)
    for action, row in ACTIONS.items():
        if row.changes:
            asked = await admin.post(f"/admin/explorer/{action}", {"format": "JSON", **filled(action)})
            assert f"Call {action} now" in asked.text
            assert await cloud.calls(action) == {}
    assert await lines(server) == []
    asked = await admin.post(
        "/admin/explorer/SendMessage", {"MqttTopic": "plant/x", "Payload": "two\r\nlines " + MARKUP}
    )
    text = html.unescape(asked.text)
    assert "plant/x" in text
    assert "two\nlines " in text
    assert "<script>alert" not in asked.text
    form = confirmed(asked)
    assert (await admin.post("/admin/explorer/DeleteGroupId", form)).status == 400
    assert (await admin.post("/admin/explorer/SendMessage", {"confirmed": "nonsense"})).status == 400
    assert await cloud.calls("SendMessage") == {}
    await cloud.fault("SendMessage", "error", code="InternalError", times=1)
    assert "The cloud refused" in (await admin.post("/admin/explorer/SendMessage", form)).text
    seen = await admin.post("/admin/explorer/SendMessage", form)
    assert "MsgId" in seen.text
    assert "<script>alert" not in seen.text


async def test_the_audit_keeps_no_more_than_the_beginning(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """A value of any length is cut there, what cannot be printed is not, and what a message says is not kept."""
    admin = await signed_in(OperatorRole.ADMIN)
    long = {"MqttTopic": f"\x1b[2J{'x' * 500}", "Payload": "y" * 5000, "InstanceId": "", "anyway": "true"}
    await call(admin, "SendMessage", long)
    [line] = await lines(server)
    assert line.who == "operator:admin-1"
    assert line.detail == f"SendMessage MqttTopic=?[2J{'x' * 96} Payload of 5000 characters"


async def test_a_yes_is_for_whoever_was_asked_and_not_for_ever(
    signed_in: SignedIn, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer cannot send an admin's; after half an hour it must be entered again."""
    admin, viewer = await signed_in(OperatorRole.ADMIN), await signed_in(OperatorRole.VIEWER)
    form = confirmed(await admin.post("/admin/explorer/CreateGroupId", {"GroupId": "GID_other"}))
    assert (await viewer.post("/admin/explorer/CreateGroupId", form)).status == 403
    monkeypatch.setattr("app.web.console.pending_form.GOOD_FOR_MS", -1)
    seen = await admin.post("/admin/explorer/CreateGroupId", form)
    assert (seen.status, "enter it again" in seen.text) == (400, True)
    assert await cloud.calls("CreateGroupId") == {}


async def test_no_secret_is_shown_unless_asked(
    signed_in: SignedIn, cloud: OwnCloud, server: TestClient[Any, Any]
) -> None:
    """Neither a token nor a device's secret nor a signature, in request, answer, refusal, question or audit."""
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await call(admin, "ApplyToken", {**filled("ApplyToken"), "show_secrets": "true"})
    match = re.search(r'"Token": "([^"]+)"', block(seen, "Response"))
    assert match
    made = match[1]
    assert made != HIDDEN
    pages = [
        await call(admin, "ApplyToken", filled("ApplyToken")),
        await call(admin, "QueryToken", {"Token": made}),
        await call(admin, "QueryToken", {"Token": made, "format": "XML"}),
        await call(admin, "QueryToken", {"Token": made, "InstanceId": "mqtt-other"}),
        await admin.post("/admin/explorer/RevokeToken", {"Token": made}),
        await call(admin, "RevokeToken", {"Token": made}),
        await call(admin, "RegisterDeviceCredential", DEVICE),
        await call(admin, "GetDeviceCredential", {**DEVICE, "format": "XML"}),
        await admin.post("/admin/explorer/QueryToken", {"Token": made, "RegionId": "x", "GroupId": "x", "Bogus": "y"}),
        await admin.post("/admin/explorer/QueryToken", {"Token": f"{made}\n", "InstanceId": ""}),
        await admin.get("/admin/audit"),
    ]
    shown = await call(admin, "GetDeviceCredential", {**DEVICE, "show_secrets": "true"})
    match = re.search(r'"DeviceAccessKeySecret": "([^"]+)"', block(shown, "Response"))
    assert match
    secrets = {made, match[1], ACCESS_KEY_SECRET}
    for page in pages:
        text = html.unescape(page.text)
        for secret in secrets:
            for writing in (
                secret,
                signature.percent_encode(secret),
                signature.percent_encode(signature.percent_encode(secret)),
            ):
                assert writing not in text
        assert page.headers["Cache-Control"] == "no-store"
        assert all(f'"{name}": "{HIDDEN}"' in text for name in re.findall(r'"(Token|DeviceAccessKeySecret)": "', text))
    assert all(made not in f"{line}" for line in await lines(server))
    assert (await lines(server))[-1].detail.startswith("ApplyToken Actions=R,W ExpireTime=")


async def test_a_refused_signature_hides_the_token_it_quotes(
    signed_in: SignedIn, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud quotes the whole string to sign; the page has it without the token, and says what was compared."""
    wrong = Credentials(ACCESS_KEY_ID, AccessKeySecret("another-secret"))
    monkeypatch.setattr(server.app[SERVICES].upstream.credentials, "_credentials", wrong)
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await call(admin, "QueryToken", {"Token": TOKEN})
    text = html.unescape(html.unescape(seen.text))
    assert "SignatureDoesNotMatch" in text
    assert "the cloud signed the same string" in text
    for writing in (TOKEN, signature.percent_encode(TOKEN), signature.percent_encode(signature.percent_encode(TOKEN))):
        assert writing not in text
    assert "another-secret" not in text


async def test_a_slip_is_told_before_anything_is_sent(
    signed_in: SignedIn, cloud: OwnCloud, server: TestClient[Any, Any]
) -> None:
    """With the rule, and what was typed as text, but no token; only a tick sends it all the same."""
    admin = await signed_in(OperatorRole.ADMIN)
    for action, form, reason in (
        ("QueryToken", {}, "Token is missing"),
        ("CreateGroupId", {"GroupId": MARKUP}, "GroupId is not valid: expected GID_"),
        ("CreateGroupId", {"GroupId": "x" * 10_000}, "GroupId is not valid: expected GID_"),
        ("BatchQuerySessionByClientIds", {"ClientIdList": "\r\n".join("abcdefghijk")}, "more than 10 values"),
        ("QueryToken", {"Token": TOKEN, "format": "YAML"}, "format must be one of JSON, XML"),
        ("QueryToken", {"Token": TOKEN, "Signature": "x"}, "an unknown parameter was sent"),
    ):
        seen = await admin.post(f"/admin/explorer/{action}", form)
        assert (seen.status, reason in html.unescape(seen.text)) == (400, True), seen.text
        assert "<script>alert" not in seen.text
        assert TOKEN not in html.unescape(seen.text)
        assert await cloud.calls(action) == {}
    assert await lines(server) == []
    seen = await call(admin, "CreateGroupId", {"GroupId": "nonsense", "anyway": "true"})
    assert "The cloud refused" in seen.text
    assert "ParameterFieldCheckFailed" in seen.text
    assert "Probable cause:" in seen.text
    seen = await admin.post("/admin/explorer/SendMessage", {"MqttTopic": "a", "Payload": "x" * 50_000})
    assert (seen.status, "shorten them" in seen.text) == (400, True)


@pytest.mark.parametrize(
    ("fault", "headline", "code"),
    [
        ("drop", "Sent, but no response received", "ConnectionLost"),
        ("half", "Sent, but no response received", "ConnectionLost"),
        ("html", "The cloud refused", "MalformedAnswer"),
        ("noise", "The cloud refused", "MalformedAnswer"),
        ("throttle", "The cloud refused", "Throttling.Api"),
    ],
)
async def test_where_no_answer_comes_the_page_says_so(
    signed_in: SignedIn, cloud: OwnCloud, fault: str, headline: str, code: str
) -> None:
    """It has the request, what came as it came, the code and the cause, and whether it may have taken effect."""
    admin = await signed_in(OperatorRole.ADMIN)
    await cloud.fault("ListGroupId", fault)
    seen = await admin.post("/admin/explorer/ListGroupId")
    assert (seen.status, headline in seen.text, code in seen.text) == (200, True, True), seen.text
    assert ("It is unknown whether the call took effect." in seen.text) is (fault != "throttle")
    assert "String to sign" in seen.text
    assert "<html" not in seen.text.partition("<main")[2]


async def test_what_cannot_be_sent_is_said_not_to_be(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Where the quota's line is too long, the page says that nothing went out, and still has the samples."""
    admin = await signed_in(OperatorRole.ADMIN)
    quota = server.app[SERVICES].cloud._quota

    def exhausted(action: str, *_: object, **__: object) -> None:
        raise QuotaExhausted(action, 60)

    quota.place = exhausted
    seen = await admin.post("/admin/explorer/ListGroupId")
    assert (seen.status, "Nothing was sent" in seen.text) == (200, True)
    assert "QuotaExhausted" in seen.text
    assert "String to sign" not in seen.text
    assert "python -m app call ListGroupId" in seen.text


async def test_what_the_audit_cannot_hold_is_not_sent(
    signed_in: SignedIn, cloud: OwnCloud, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Redis nothing goes out: no call lacks its line."""
    admin = await signed_in(OperatorRole.ADMIN)

    async def gone(*_: object) -> None:
        raise Unavailable("Redis is out of reach")

    monkeypatch.setattr(server.app[SERVICES].stores.audit, "append", gone)
    assert (await admin.post("/admin/explorer/ListGroupId")).status == 503
    assert await cloud.calls("ListGroupId") == {}
