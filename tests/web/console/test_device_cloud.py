"""What operators do for a device at the cloud, and what they are told when it refuses or is away."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.errors import Unavailable
from app.model.operators import OperatorRole
from app.service.audit import AuditFilter, AuditLog
from app.service.registry import Registration, Registry
from app.store.audit import AuditEntry, AuditStore
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.sandbox.device import Device
from tests.web.conftest import ISSUER, OwnCloud
from tests.web.console.conftest import Browser, Seen, SignedIn

D1 = "GID_plant@@@d1"
AT_D1 = f"/admin/devices/{D1}"
CREDENTIAL = f"{AT_D1}/credential"


@pytest.fixture
async def browser(signed_in: SignedIn, registry: Registry) -> Browser:
    """An operator's, and there is a device."""
    await registry.add_device(Registration(D1), actor=CLI)
    return await signed_in(OperatorRole.OPERATOR)


async def lines(server: TestClient[Any, Any]) -> list[AuditEntry]:
    """Return the audit trail of the device, the newest first."""
    parts = server.app[SERVICES].stores
    return (await AuditLog(parts.audit, parts.tokens).search_events(AuditFilter(client_id=D1))).entries


def shown_secret(seen: Seen) -> str:
    """Return the secret that a page shows this once; empty for none."""
    match = re.search(r'<textarea id="secret"[^>]*>([^<]+)</textarea>', seen.text)
    return html.unescape(match[1]) if match else ""


async def test_a_credential_is_made_and_its_secret_shown_once(
    server: TestClient[Any, Any], browser: Browser, cloud: OwnCloud
) -> None:
    """Looking shows the key ID and never the secret; refreshing shows another; unregistering is asked about first."""
    assert (await browser.get(CREDENTIAL)).status == 200
    assert await cloud.calls("GetDeviceCredential") == {}  # a view of the page costs no call

    made = await browser.post(f"{CREDENTIAL}/register")
    secret = shown_secret(made)
    assert secret.startswith("DC.")
    key_id = re.search(r"<code>(DC\.[^<]+)</code>", made.text)
    assert key_id

    looked = await browser.post(CREDENTIAL)
    assert key_id[1] in looked.text
    assert secret not in looked.text
    assert shown_secret(looked) == ""

    refreshed = await browser.post(f"{CREDENTIAL}/refresh")
    assert key_id[1] in refreshed.text
    assert shown_secret(refreshed).startswith("DC.")
    assert shown_secret(refreshed) != secret

    assert "stops working" in (await browser.get(f"{CREDENTIAL}/unregister")).text
    assert await cloud.calls("UnRegisterDeviceCredential") == {}
    gone = await browser.follow(await browser.post(f"{CREDENTIAL}/unregister"))
    assert "The cloud deleted the credential." in gone.text

    told = [(line.who, line.what) for line in await lines(server)]
    assert told[:3] == [
        ("operator:operator-1", what)
        for what in ("credential_unregistered", "credential_refreshed", "credential_registered")
    ]
    assert all(secret not in line.detail for line in await lines(server))
    page = (await browser.get(AT_D1)).text
    assert "cloud credential registered" in page


@pytest.mark.parametrize("act", ["", "/refresh", "/unregister"])
async def test_a_device_without_a_credential_is_told_of(
    server: TestClient[Any, Any], browser: Browser, act: str
) -> None:
    """The cloud's code is there, and what to do; the trail holds nothing, for nothing was done."""
    seen = await browser.post(CREDENTIAL + act)
    assert seen.status == 409
    assert "ParameterCheckFailed; the device may have no credential" in html.unescape(seen.text)
    assert D1 in seen.text
    assert [line.what for line in await lines(server)] == ["device_added"]


async def test_a_message_is_sent_and_what_it_said_is_not_kept(server: TestClient[Any, Any], browser: Browser) -> None:
    """The page tells the message's ID; the trail says who sent to which topic."""
    assert f'value="plant/p2p/{D1}"' in (await browser.get(f"{AT_D1}/message")).text
    form = {"topic": f"plant/p2p/{D1}", "payload": "open the valve\r\nnow"}
    page = await browser.follow(await browser.post(f"{AT_D1}/message", form))
    assert re.search(
        rf"The cloud accepted the message to plant/p2p/{D1}. Its message ID is [0-9A-F]{{32}}\.",
        html.unescape(page.text),
    )
    told = (await lines(server))[0]
    assert (told.who, told.what, told.detail) == ("operator:operator-1", "message_sent", f"to plant/p2p/{D1}")
    assert "valve" not in str(await lines(server))


@pytest.mark.parametrize(
    ("topic", "payload", "complaint"),
    [
        ("plant/+/x", "x", "MqttTopic"),
        ("plant/" + "x" * 60, "x", "MqttTopic"),
        ("", "x", "MqttTopic is missing"),
        ("plant/x", "", "Payload is missing"),
        ("<b>/x", "<script>alert(1)</script>", "MqttTopic"),
    ],
)
async def test_a_message_that_cannot_be_is_not_sent(
    browser: Browser, cloud: OwnCloud, topic: str, payload: str, complaint: str
) -> None:
    """The form comes back as typed, and the cloud is not asked."""
    seen = await browser.post(f"{AT_D1}/message", {"topic": topic, "payload": payload})
    assert seen.status == 400
    assert complaint in seen.text
    assert html.escape(payload) in seen.text
    assert "<script>alert" not in seen.text
    assert await cloud.calls("SendMessage") == {}


async def test_what_may_have_been_sent_is_said_to_be_so(
    server: TestClient[Any, Any], browser: Browser, cloud: OwnCloud
) -> None:
    """Where the answer is lost it is not sent again by itself; page and trail say that it may have been."""
    await cloud.fault("SendMessage", "half")
    seen = await browser.post(f"{AT_D1}/message", {"topic": "plant/x", "payload": "not twice"})
    assert seen.status == 503
    assert int(seen.headers["Retry-After"]) >= 1
    assert "the cloud's answer was lost, so check whether it was done" in html.unescape(seen.text)
    assert ">\nnot twice</textarea>" in seen.text
    assert sum((await cloud.calls("SendMessage")).values()) == 1
    told = (await lines(server))[0]
    assert told.what == "message_sent"
    assert told.detail.startswith("to plant/x; outcome unknown: the answer was lost")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("InternalServerError", 503, "the cloud failed to serve the call: try again (InternalServerError;"),
        ("SystemOverflow", 503, "SystemOverflow"),
        ("Throttling.User", 503, "Throttling.User"),
        ("PermissionCheckFailed", 409, "parent topic"),
        ("InvalidParameter.ClientId", 409, "InvalidParameter.ClientId"),
        ("InvalidAccessKeyId.NotFound", 409, "InvalidAccessKeyId.NotFound"),
        ("ApiNotSupport", 409, "does not have this action"),
    ],
)
async def test_an_error_of_the_cloud_is_told_with_code_and_cause(
    server: TestClient[Any, Any], browser: Browser, cloud: OwnCloud, code: str, status: int, said: str
) -> None:
    """What passes is 503 with a Retry-After, what stays is a refusal; on the page where it was tried."""
    await cloud.fault("CloseConnection", "error", code=code, times=None)
    seen = await browser.post(f"{AT_D1}/close")
    assert seen.status == status
    assert said in html.unescape(seen.text)
    assert ("Retry-After" in seen.headers) == (status == 503)
    assert f'action="{AT_D1}/close"' in seen.text
    assert [line.what for line in await lines(server)] == ["device_added"]


async def test_closing_a_connection_is_written_down(server: TestClient[Any, Any], browser: Browser) -> None:
    """The page says that the device may come back."""
    page = await browser.follow(await browser.post(f"{AT_D1}/close"))
    assert "The device can connect again with the tokens it has." in page.text
    assert (await lines(server))[0].what == "connection_closed"


async def test_groups_are_created_and_deleted(
    server: TestClient[Any, Any], browser: Browser, registry: Registry
) -> None:
    """Deleting says first how many devices have the group ID; both are in the trail."""
    assert "GID_plant" in (await browser.get("/admin/groups")).text
    page = await browser.follow(await browser.post("/admin/groups", {"group_id": " GID_new "}))
    assert "The group ID GID_new was created." in page.text
    assert "<code>GID_new</code>" in page.text

    assert "1 registered device has this group ID." in (await browser.get("/admin/groups/GID_plant/delete")).text
    assert "No registered device" in (await browser.get("/admin/groups/GID_new/delete")).text
    page = await browser.follow(await browser.post("/admin/groups/GID_new/delete"))
    assert "The group ID GID_new was deleted." in page.text
    assert "<code>GID_new</code>" not in page.text

    parts = server.app[SERVICES].stores
    for what in ("group_created", "group_deleted"):
        [line] = (await AuditLog(parts.audit, parts.tokens).search_events(AuditFilter(what=what))).entries
        assert (line.who, line.client_id, line.detail) == ("operator:operator-1", "", "GID_new")


@pytest.mark.parametrize("group_id", ["", "plant", "GID_", "GID_a b", "GID_" + "x" * 61, "<script>alert(1)</script>"])
async def test_a_group_id_that_cannot_be_is_refused(browser: Browser, cloud: OwnCloud, group_id: str) -> None:
    """The list stands, the form is as typed, and the cloud is not asked to create anything."""
    seen = await browser.post("/admin/groups", {"group_id": group_id})
    assert seen.status == 400
    assert "GroupId" in seen.text
    assert "<code>GID_plant</code>" in seen.text
    assert "<script>alert" not in seen.text
    assert await cloud.calls("CreateGroupId") == {}
    if group_id:
        assert (await browser.post(f"/admin/groups/{group_id.replace('/', '')}/delete")).status == 400


async def test_a_group_that_is_there_or_gone_is_told_of(browser: Browser) -> None:
    """A form that is sent twice is refused with the cloud's code and what that means."""
    seen = await browser.post("/admin/groups", {"group_id": "GID_plant"})
    assert seen.status == 409
    assert "GroupIdAlreadyExsited; nothing is to be done: the group ID exists" in seen.text
    await browser.post("/admin/groups/GID_plant/delete")
    assert "no group ID yet" in (await browser.get("/admin/groups")).text
    assert (await browser.post("/admin/groups/GID_plant/delete")).status == 409


async def test_a_group_that_may_have_been_created_is_said_to_be_so(browser: Browser, cloud: OwnCloud) -> None:
    """Whoever looks again, as the page says, finds it."""
    await cloud.fault("CreateGroupId", "half")
    seen = await browser.post("/admin/groups", {"group_id": "GID_new"})
    assert seen.status == 503
    assert "the cloud's answer was lost, so check whether it was done" in html.unescape(seen.text)
    assert "<code>GID_new</code>" in seen.text


async def test_groups_without_the_cloud(browser: Browser, cloud: OwnCloud) -> None:
    """The page says that the list is not known, why, and keeps its form."""
    await cloud.fault("ListGroupId", "error", code="ServiceUnavailable", times=None)
    seen = await browser.get("/admin/groups")
    assert seen.status == 503
    assert "The list is unavailable." in seen.text
    assert "ServiceUnavailable" in seen.text
    assert 'action="/admin/groups"' in seen.text


async def test_what_the_cloud_made_is_shown_though_the_trail_is_full(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be taken back and is not shown again, so its line in the log has to do."""

    async def full(*_: object) -> None:
        raise Unavailable("full", cause="OOM")

    monkeypatch.setattr(AuditStore, "append", full)
    monkeypatch.setattr("app.service.cloud_admin.RECORD_WITHIN_S", 0.05)
    assert shown_secret(await browser.post(f"{CREDENTIAL}/register")).startswith("DC.")


async def test_a_device_is_seen_online_hears_a_message_and_is_cut_off(
    server: TestClient[Any, Any], browser: Browser, registry: Registry, cloud: OwnCloud
) -> None:
    """With a real MQTT client: the page says it is online, the topic it suggests reaches it, closing ends it."""
    added, _ = await registry.rotate_key(D1, actor=CLI)
    assert added.secret
    mqtt = (await Caller(server, ISSUER, D1, added.secret.reveal()).token()).body["mqtt"]
    device = Device(cloud.mqtt_port, D1, mqtt["password"], username=mqtt["username"])
    await device.connect()
    assert "It is connected to the broker now." in (await browser.get(AT_D1)).text
    await browser.post(f"{AT_D1}/message", {"topic": f"plant/p2p/{D1}", "payload": "grüß dich"})
    await device.got("grüß dich".encode())
    page = await browser.follow(await browser.post(f"{AT_D1}/close"))
    await device.cut()
    await device.close()
    assert "The cloud closed the connection." in page.text
    assert "It is not connected to the broker now." in (await browser.get(AT_D1)).text


async def test_the_language_can_be_chosen_on_an_answer_to_a_form(browser: Browser, cloud: OwnCloud) -> None:
    """The switch leads to a page that is there, also from where a button sent to and no page is."""
    await cloud.fault("CloseConnection", "error", code="PermissionCheckFailed", times=None)
    for path in ("/credential", "/credential/register", "/credential/refresh", "/close"):
        seen = await browser.post(AT_D1 + path)
        to = re.search(r'name="to" value="([^"]+)"', seen.text)
        assert to
        chosen = await browser.post("/admin/language", {"language": "en", "to": html.unescape(to[1])})
        assert (await browser.follow(chosen)).status == 200, path
