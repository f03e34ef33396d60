"""The pages about devices, as an operator's browser sees them."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.errors import NotFound
from app.model.operators import OperatorRole
from app.service.registry import Registration, Registry
from tests.actors import CLI
from tests.callers import Caller
from tests.web.conftest import ISSUER, MakeCaller, OwnCloud
from tests.web.console.conftest import Browser, Seen, SignedIn
from tests.web.console.pages import hidden_fields

D1 = "GID_plant@@@d1"
AT_D1 = f"/admin/devices/{D1}"
MARKUP = "<script>alert(1)</script>\"'&"


@pytest.fixture
async def browser(signed_in: SignedIn) -> Browser:
    """An operator's."""
    return await signed_in(OperatorRole.OPERATOR)


def secret_of(seen: Seen) -> str:
    """Return the secret that a page shows this once."""
    match = re.search(r'<textarea id="secret"[^>]*>([^<]+)</textarea>', seen.text)
    assert match, seen.text
    return html.unescape(match[1])


async def test_where_there_is_no_device_the_page_says_so(browser: Browser) -> None:
    """And leads to registering one."""
    seen = await browser.get("/admin/devices")
    assert seen.status == 200
    assert "No device is registered yet." in seen.text
    assert 'href="/admin/devices/new"' in seen.text


async def test_devices_are_listed_page_by_page(browser: Browser, registry: Registry) -> None:
    """Each with its role and where that comes from; the link to the next page leads through all of them."""
    await registry.add_device(Registration("GID_plant@@@named", role="line", note="beside the door"), actor=CLI)
    for number in range(60):
        await registry.add_device(Registration(f"GID_plant@@@d{number}"), actor=CLI)
    found: set[str] = set()
    address = "/admin/devices"
    while address:
        seen = await browser.get(address)
        found |= set(re.findall(r'href="/admin/devices/(GID_[^"]+)"', seen.text))
        following = re.search(r'<a href="([^"]+)" rel="next">', seen.text)
        address = html.unescape(following[1]) if following else ""
    assert found == {"GID_plant@@@named", *(f"GID_plant@@@d{number}" for number in range(60))}

    seen = await browser.get("/admin/devices", q="NAMED")
    assert set(re.findall(r'href="/admin/devices/(GID_[^"]+)"', seen.text)) == {"GID_plant@@@named"}
    assert "beside the door" in seen.text
    assert "sensor (by match)" in (await browser.get("/admin/devices", q="d59")).text


@pytest.mark.parametrize(
    ("q", "status"), [("nobody", 200), (MARKUP, 200), ("\x00\x1b[31m", 200), ("x" * 65, 400), ("x" * 7000, 400)]
)
async def test_a_search_for_what_is_not_there_finds_nothing(browser: Browser, q: str, status: int) -> None:
    """Whatever is searched for is shown as text, or refused; never as markup."""
    seen = await browser.get("/admin/devices", q=q)
    assert seen.status == status
    assert "No client ID contains this text." in seen.text
    assert "<script>alert" not in seen.text


async def test_a_search_of_ten_thousand_characters_does_no_harm(browser: Browser) -> None:
    """It is refused before it gets anywhere."""
    assert (await browser.get("/admin/devices", q="x" * 10_000)).status == 400
    assert (await browser.get("/admin/devices")).status == 200


async def test_a_cursor_that_is_none_is_refused(browser: Browser) -> None:
    """The page stands, and says what was wrong."""
    seen = await browser.get("/admin/devices", cursor="; FLUSHALL")
    assert seen.status == 400
    assert "invalid cursor: use next_cursor" in seen.text


async def test_a_registered_device_gets_a_token_at_once(server: TestClient[Any, Any], browser: Browser) -> None:
    """With the secret that the answer to the form shows, and no other page."""
    seen = await browser.post("/admin/devices", {"client_id": D1, "role": "", "note": "new", "key": "HS256"})
    assert seen.status == 200
    assert seen.headers["Cache-Control"] == "no-store"
    secret = secret_of(seen)
    assert html.escape(f"python -m app device --client-id {D1} --secret-file secret --server {ISSUER}") in seen.text
    caller = Caller(server, ISSUER, D1, secret)
    assert (await caller.token()).status == 200
    assert (await caller.token_by_basic()).status == 200
    for path in (AT_D1, "/admin/devices", f"{AT_D1}/edit", f"{AT_D1}/rotate"):
        assert secret not in (await browser.get(path)).text


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_a_pair_made_here_is_good_at_once(server: TestClient[Any, Any], browser: Browser, algorithm: str) -> None:
    """The private key is shown once, and signs what the server takes."""
    seen = await browser.post("/admin/devices", {"client_id": D1, "key": algorithm})
    private = secret_of(seen)
    assert (await Caller(server, ISSUER, D1, private, algorithm).token()).status == 200
    assert private.splitlines()[1] not in (await browser.get(AT_D1)).text


async def test_a_pasted_key_is_registered_and_nothing_is_shown(browser: Browser, registry: Registry) -> None:
    """As a JWK or as PEM; with the public key there is nothing to show."""
    jwk = '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    seen = await browser.post("/admin/devices", {"client_id": D1, "key": "pasted", "public_key": jwk})
    page = await browser.follow(seen)
    assert "registered with its public key" in page.text
    assert (await registry.get_device(D1)).algorithm == "EdDSA"
    pem = await registry.public_key(D1)
    assert pem
    form = {"client_id": "GID_plant@@@d2", "key": "pasted", "public_key": pem.reveal().replace("\n", "\r\n")}
    assert (await browser.post("/admin/devices", form)).status == 303
    assert await registry.public_key("GID_plant@@@d2") == pem


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ({"client_id": "nobody"}, "GID_group@@@device"),
        ({"client_id": D1, "role": "ghost"}, "no role"),
        ({"client_id": D1, "role": MARKUP}, "no role"),
        ({"client_id": D1, "attributes": "line"}, "line 1 of the attributes"),
        ({"client_id": D1, "attributes": "a=1\n\na=2"}, "line 3 of the attributes"),
        ({"client_id": D1, "attributes": f"a={MARKUP}"}, "attribute a"),
        ({"client_id": D1, "attributes": f"{MARKUP}=a"}, "attribute"),
        ({"client_id": D1, "note": "x" * 201}, "at most 200"),
        ({"client_id": D1, "note": "a\x07b"}, "note"),
        ({"client_id": D1, "key": "none"}, "key"),
        ({"client_id": D1, "key": "pasted"}, "the public key is missing"),
        ({"client_id": D1, "key": "HS256", "public_key": "x"}, "choose the pasted one"),
        ({"client_id": D1, "key": "pasted", "public_key": MARKUP}, "not a valid public key"),
        ({"client_id": D1, "secret": "x" * 32}, "an unknown parameter was sent"),
        ([("client_id", D1), ("client_id", D1)], "more than once"),
        ({}, "GID_group@@@device"),
    ],
)
async def test_a_refused_form_is_shown_again_as_typed(browser: Browser, form: Any, complaint: str) -> None:
    """With what was wrong, and as text whatever was typed."""
    seen = await browser.post("/admin/devices", form)
    assert seen.status == 400
    assert complaint in html.unescape(seen.text)
    assert "<script>alert" not in seen.text
    assert 'action="/admin/devices"' in seen.text
    if isinstance(form, dict):
        for name in ("client_id", "attributes", "note"):
            # What has no place in a page is seen as such.
            assert form.get(name, "").replace("\x07", "�") in html.unescape(seen.text)
    assert "No device is registered yet." in (await browser.get("/admin/devices")).text


async def test_a_private_key_is_never_shown_again(browser: Browser) -> None:
    """Whoever pastes the wrong half is told so; the form comes back without it."""
    jwk = '{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKx"}'
    seen = await browser.post("/admin/devices", {"client_id": D1, "key": "pasted", "public_key": jwk})
    assert seen.status == 400
    assert "private key, which must not leave its device" in seen.text
    assert "nWGxne" not in seen.text
    assert f'value="{D1}"' in seen.text
    assert '<option value="pasted" selected>' in seen.text


async def test_registering_twice_says_what_to_do(browser: Browser, registry: Registry) -> None:
    """A double click or the back button makes no second device, and leads to the one that is there."""
    form = {"client_id": D1, "key": "HS256"}
    secret = secret_of(await browser.post("/admin/devices", form))
    epoch = (await registry.get_device(D1)).epoch
    seen = await browser.post("/admin/devices", form)
    assert seen.status == 400
    assert "is already registered" in seen.text
    assert f'href="{AT_D1}/rotate"' in seen.text
    assert secret not in seen.text
    assert (await registry.get_device(D1)).epoch == epoch


async def test_a_device_shows_what_it_may_do_and_why(browser: Browser, make_caller: MakeCaller) -> None:
    """The role and its rule, each permission with its template, what it holds and what was done."""
    caller = await make_caller(D1, attributes={"line": "l1"}, note=MARKUP)
    assert (await caller.token()).status == 200
    seen = await browser.get(AT_D1)
    text = html.unescape(seen.text)
    for part in (
        "GID_plant@@@* is the first match in the policy",
        "plant/d1/up/#",
        "plant/{device_id}/up/#",
        "line=l1",
        "It is not connected to the broker now.",
        "token issued",
        "device registered",
        f"/admin/revoke?client_id={D1.replace('@', '%40')}",
    ):
        assert part in text, part
    assert re.search(r'href="/admin/revoke\?handle=\d\d-', seen.text)
    assert "<script>alert" not in seen.text
    assert html.escape("<script>alert(1)</script>") in seen.text


async def test_a_device_without_a_grant_says_why(browser: Browser, registry: Registry) -> None:
    """The template that has no result is named, with the reason."""
    await registry.add_device(Registration(D1, role="line"), actor=CLI)
    text = html.unescape((await browser.get(AT_D1)).text)
    assert "This device gets no token: a template of its role cannot be filled in for it." in text
    assert "needs {attr.line}: give the device this attribute" in text
    assert "It has no live token." in text


async def test_a_device_stands_without_the_cloud(browser: Browser, registry: Registry, cloud: OwnCloud) -> None:
    """Only whether it is online is not known then, and the page says why."""
    await registry.add_device(Registration(D1), actor=CLI)
    await cloud.fault("QuerySessionByClientId", "error", code="InternalError", times=None)
    seen = await browser.get(AT_D1)
    assert seen.status == 200
    assert "Whether the device is online is unknown" in seen.text
    assert "InternalError" in seen.text
    assert "plant/d1/up/#" in seen.text
    await cloud.clear()
    await cloud.fault("QuerySessionByClientId", "error", code="ApiNotSupport", times=None)
    browser.language = "zh-CN"
    assert "该云端实例不支持此操作" in (await browser.get(AT_D1)).text


async def test_a_device_that_hangs_at_the_cloud_does_not_hold_up_the_page(
    browser: Browser, registry: Registry, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its deadline the page comes without the answer."""
    monkeypatch.setattr("app.service.cloud_admin.LOOK_WITHIN_S", 0.05)
    await registry.add_device(Registration(D1), actor=CLI)
    await cloud.fault("QuerySessionByClientId", "hang", times=None)
    seen = await browser.get(AT_D1)
    assert seen.status == 200
    assert "Whether the device is online is unknown" in seen.text
    await cloud.clear()


@pytest.mark.parametrize(
    "client_id", ["GID_plant@@@nobody", "nobody", "x" * 500, "GID_plant@@@%00", "GID_plant@@@%3Cb%3E"]
)
async def test_a_device_that_is_not_there_is_not_found(browser: Browser, client_id: str) -> None:
    """Whatever stands in the address, and whatever is about to be done with it."""
    for path in ("", "/edit", "/rotate", "/disable", "/remove", "/message", "/credential", "/credential/unregister"):
        assert (await browser.get(f"/admin/devices/{client_id}{path}")).status == 404, path
    forms = {
        "/edit": {"note": "x"},
        "/rotate": {"key": "HS256"},
        "/message": {"topic": "plant/x", "payload": "x"},
    }
    posts = ("/disable", "/enable", "/remove", "/close", "/credential", "/credential/register", "/credential/refresh")
    for path in (*forms, *posts, "/credential/unregister"):
        seen = await browser.post(f"/admin/devices/{client_id}{path}", forms.get(path))
        assert seen.status == 404, path
        assert "<b>" not in seen.text


async def test_editing_takes_wider_tokens_back(browser: Browser, make_caller: MakeCaller, cloud: OwnCloud) -> None:
    """A role that permits less revokes what is held, and says how much; the device gets the narrower grant next."""
    caller = await make_caller(D1)
    assert (await caller.token()).status == 200
    assert "It has 1 live token now." in (await browser.get(f"{AT_D1}/edit")).text
    seen = await browser.post(f"{AT_D1}/edit", {"role": "line", "attributes": "line=l1", "note": "moved"})
    assert "1 token was revoked." in (await browser.follow(seen)).text
    await cloud.until_revoked(2)
    assert (await caller.token()).body["scope"] == "pub:plant/l1/# sub:plant/l1/#"
    assert "device changed" in (await browser.get(AT_D1)).text


async def test_editing_the_note_revokes_nothing(browser: Browser, make_caller: MakeCaller, registry: Registry) -> None:
    """What the device holds stays good at the broker; sending the form again changes nothing."""
    caller = await make_caller(D1)
    await caller.token()
    for _ in range(2):
        seen = await browser.post(f"{AT_D1}/edit", {"role": "", "attributes": "", "note": MARKUP})
        page = await browser.follow(seen)
        assert "No token was revoked." in page.text
        assert "<script>alert" not in page.text
        assert (await registry.get_device(D1)).note == MARKUP
    again = await browser.get(f"{AT_D1}/edit")
    assert f'value="{html.escape(MARKUP).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")}"' in again.text


async def test_a_form_opened_before_a_change_puts_nothing_back(browser: Browser, registry: Registry) -> None:
    """Who edits the note gives no role back that another took meanwhile, not even after another mistake in the form."""
    await registry.add_device(Registration(D1, role="sensor"), actor=CLI)
    opened = hidden_fields((await browser.get(f"{AT_D1}/edit")).text, f"{AT_D1}/edit")
    assert opened is not None
    await registry.update_device(D1, role="line", attributes={"line": "l1"}, note="", actor=CLI)
    form = dict(opened) | {"role": "sensor", "attributes": "not one", "note": "new"}
    refused = await browser.post(f"{AT_D1}/edit", form)
    form |= dict(hidden_fields(refused.text, f"{AT_D1}/edit") or []) | {"attributes": ""}
    refused = await browser.post(f"{AT_D1}/edit", form)
    assert refused.status == 400
    assert "was changed after this form was opened" in refused.text
    device = await registry.get_device(D1)
    assert (device.role, device.note) == ("line", "")


@pytest.mark.parametrize("form", [{"role": "ghost"}, {"attributes": "a"}, {"note": "x" * 201}, {"client_id": "x"}])
async def test_a_refused_edit_is_shown_again(browser: Browser, registry: Registry, form: dict[str, str]) -> None:
    """As typed, and the record stays as it was."""
    added = await registry.add_device(Registration(D1, note="old"), actor=CLI)
    seen = await browser.post(f"{AT_D1}/edit", form)
    assert seen.status == 400
    assert f'action="{AT_D1}/edit"' in seen.text
    assert await registry.get_device(D1) == added.device


async def test_disabling_says_first_what_it_will_do(browser: Browser, make_caller: MakeCaller) -> None:
    """Then the device is refused, until it is enabled; doing it twice does no harm."""
    caller = await make_caller(D1)
    await caller.token()
    asked = await browser.get(f"{AT_D1}/disable")
    assert "1 live token will be revoked" in asked.text
    assert (await caller.token()).status == 200

    page = await browser.follow(await browser.post(f"{AT_D1}/disable"))
    assert "1 token was revoked." in page.text
    assert (await caller.token()).status == 401
    page = await browser.follow(await browser.post(f"{AT_D1}/disable"))
    assert "No token was revoked." in page.text
    assert f'action="{AT_D1}/enable"' in page.text

    page = await browser.follow(await browser.post(f"{AT_D1}/enable"))
    assert "can request tokens again" in page.text
    assert (await caller.token()).status == 200


async def test_rotating_shows_the_new_secret_once(server: TestClient[Any, Any], browser: Browser) -> None:
    """Without grace the old one is useless at once; with grace both are good."""
    old = secret_of(await browser.post("/admin/devices", {"client_id": D1}))
    await Caller(server, ISSUER, D1, old).token()
    assert "It has 1 live token now." in (await browser.get(f"{AT_D1}/rotate")).text
    seen = await browser.post(f"{AT_D1}/rotate", {"key": "HS256", "grace_h": "0"})
    assert "1 token was revoked." in seen.text
    second = secret_of(seen)
    assert (await Caller(server, ISSUER, D1, old).token()).status == 401
    assert (await Caller(server, ISSUER, D1, second).token()).status == 200

    seen = await browser.post(f"{AT_D1}/rotate", {"key": "ES256", "grace_h": "2"})
    assert "No token was revoked" in seen.text
    third = secret_of(seen)
    assert (await Caller(server, ISSUER, D1, second).token()).status == 200
    assert (await Caller(server, ISSUER, D1, third, "ES256").token()).status == 200
    assert "also valid until" in (await browser.get(AT_D1)).text


@pytest.mark.parametrize("grace_h", ["-1", "721", "1.5", "many", "9" * 400])
async def test_a_grace_that_cannot_be_is_refused(browser: Browser, registry: Registry, grace_h: str) -> None:
    """The form comes back, and the key stays."""
    added = await registry.add_device(Registration(D1), actor=CLI)
    seen = await browser.post(f"{AT_D1}/rotate", {"key": "HS256", "grace_h": grace_h})
    assert seen.status == 400
    assert "grace_h" in seen.text
    assert await registry.get_device(D1) == added.device


async def test_removing_says_first_what_it_will_do(
    browser: Browser, make_caller: MakeCaller, registry: Registry
) -> None:
    """Then it is gone; a second click finds nothing."""
    caller = await make_caller(D1)
    await caller.token()
    assert "1 live token will be revoked" in (await browser.get(f"{AT_D1}/remove")).text
    page = await browser.follow(await browser.post(f"{AT_D1}/remove"))
    assert f"{D1} was removed." in page.text
    assert "1 token was revoked." in page.text
    assert (await caller.token()).status == 401
    with pytest.raises(NotFound):
        await registry.get_device(D1)
    assert (await browser.post(f"{AT_D1}/remove")).status == 404


async def test_a_viewer_looks_and_changes_nothing(signed_in: SignedIn, registry: Registry) -> None:
    """Every page shows all there is without a button, and refuses what only an operator may."""
    added = await registry.add_device(Registration(D1), actor=CLI)
    viewer = await signed_in(OperatorRole.VIEWER)
    for path in ("/admin/devices", AT_D1, f"{AT_D1}/credential", "/admin/groups"):
        seen = await viewer.get(path)
        assert seen.status == 200
        for word in ("/edit", "/new", "/disable", "/remove", "/rotate", "/close", "/register", "/delete", "/revoke?"):
            assert word not in seen.text, (path, word)
    for path in ("/edit", "/rotate", "/disable", "/remove", "/message", "/credential/unregister"):
        assert (await viewer.get(AT_D1 + path)).status == 403
        assert (await viewer.post(AT_D1 + path)).status == 403
    for path in ("/enable", "/close", "/credential/register", "/credential/refresh"):
        assert (await viewer.post(AT_D1 + path)).status == 403
    assert (await viewer.get("/admin/devices/new")).status == 403
    assert (await viewer.post("/admin/devices", {"client_id": "GID_plant@@@d2"})).status == 403
    assert await registry.get_device(D1) == added.device
