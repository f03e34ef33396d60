"""Signing in at the console, as a browser does it."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient

from app.model.operators import OperatorRole
from app.web.request_input import FORM
from app.web.route import SERVICES
from tests.web.console.conftest import PASSWORD, SAME_ORIGIN, Browser, SignedIn


async def test_whoever_is_not_signed_in_is_asked_to(server: TestClient[Any, Any]) -> None:
    """A page leads to the sign-in page, which leads back to it."""
    browser = Browser(server)
    seen = await browser.get("/admin/tokens", role="sensor")
    assert seen.status == 303
    assert seen.location == "/admin/sign-in?to=%2Fadmin%2Ftokens%3Frole%3Dsensor"
    assert 'value="/admin/tokens?role=sensor"' in (await browser.follow(seen)).text


async def test_signing_in_leads_to_the_page_that_was_meant(server: TestClient[Any, Any], signed_in: SignedIn) -> None:
    """After signing in one is where one wanted to go, and is known there."""
    await signed_in(OperatorRole.VIEWER, "ada")
    browser = Browser(server)
    form = {"name": "ada", "password": PASSWORD, "to": "/admin/tokens?role=sensor"}
    seen = await browser.post("/admin/sign-in", form)
    assert (seen.status, seen.location) == (303, "/admin/tokens?role=sensor")
    page = await browser.follow(seen)
    assert page.status == 200
    assert ">ada<" in page.text


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "//evil.example/admin/",
        "//[",
        "/admin/..//evil.example",
        "/admin/\\evil.example",
        "/admin/\r\nSet-Cookie: session=x",
        "/administrator",
        "javascript:alert(1)",
        "//a\u2100b/",
    ],
)
async def test_signing_in_leads_nowhere_else(server: TestClient[Any, Any], signed_in: SignedIn, to: str) -> None:
    """Wherever a link to the sign-in page says to go on, it is a page of the console; nothing breaks by it."""
    await signed_in(OperatorRole.VIEWER, "ada")
    browser = Browser(server)
    asked = await browser.get("/admin/sign-in", to=to)
    assert asked.status == 200
    assert 'name="to" value="/admin/"' in asked.text
    assert (await browser.post("/admin/language", {"language": "en", "to": to})).location == "/admin/"
    assert (await browser.post("/admin/sign-in", {"name": "ada", "password": PASSWORD, "to": to})).location == "/admin/"
    assert (await browser.get("/admin/sign-in", to=to)).location == "/admin/"


async def test_a_wrong_password_and_an_unknown_name_look_alike(
    server: TestClient[Any, Any], signed_in: SignedIn
) -> None:
    """Nobody learns from the answer which names there are."""
    await signed_in(OperatorRole.VIEWER, "ada")
    wrong = await Browser(server).sign_in("ada", "not the password at all")
    unknown = await Browser(server).sign_in("eve", "not the password at all")
    assert wrong.status == unknown.status == 401
    assert wrong.text == unknown.text.replace('value="eve"', 'value="ada"')
    assert "not the password" not in wrong.text
    assert not wrong.cookies


async def test_a_guesser_is_told_to_wait(server: TestClient[Any, Any], signed_in: SignedIn) -> None:
    """After some wrong passwords the answer is 429 with a Retry-After, for the right password too."""
    await signed_in(OperatorRole.VIEWER, "ada")
    for _ in range(5):
        assert (await Browser(server).sign_in("ada", "not the password at all")).status == 401
    await Browser(server).sign_in("ada", "not the password at all")
    seen = await Browser(server).sign_in("ada")
    assert seen.status == 429
    assert int(seen.headers["Retry-After"]) >= 1
    assert not seen.cookies


async def test_signing_out_ends_the_session_everywhere_it_was_copied_to(signed_in: SignedIn) -> None:
    """A session that was signed out is none, whoever still holds its cookie."""
    browser = await signed_in()
    thief = Browser(browser.client, cookies=dict(browser.cookies))
    seen = await browser.post("/admin/sign-out")
    assert "You are signed out." in (await browser.follow(seen)).text
    assert not browser.cookies
    assert (await thief.get("/admin/")).status == 303


async def test_a_session_counts_at_every_instance(signed_in: SignedIn, other_server: TestClient[Any, Any]) -> None:
    """Who signed in at one instance is signed in at all."""
    browser = await signed_in()
    assert (await Browser(other_server, cookies=browser.cookies).get("/admin/")).status == 200


async def test_the_language_is_the_browsers_until_another_is_chosen(signed_in: SignedIn) -> None:
    """The browser's preference decides first, and the switch from then on."""
    browser = await signed_in()
    browser.language = "zh-CN,zh;q=0.9,en;q=0.8"
    assert '<html lang="zh-Hans">' in (await browser.get("/admin/")).text
    seen = await browser.post("/admin/language", {"language": "en", "to": "/admin/tokens"})
    assert seen.location == "/admin/tokens"
    assert '<html lang="en">' in (await browser.follow(seen)).text


async def test_a_form_that_was_sent_too_late_is_not_lost(signed_in: SignedIn) -> None:
    """After signing in again, a form goes on as it was filled in, once one says so."""
    browser = await signed_in(OperatorRole.OPERATOR, "ada")
    browser.cookies.clear()
    late = await browser.post("/admin/tokens", {"q": "plant/7/#", "by": "topic"})
    assert late.status == 401
    assert "Your input is kept" in late.text
    sealed = late.text.partition('name="pending_form" value="')[2].partition('"')[0]
    form = {"name": "ada", "password": PASSWORD, "pending_form": sealed}
    back = await browser.post("/admin/sign-in", form)
    assert back.status == 200
    assert 'action="/admin/tokens"' in back.text
    sent = await browser.post("/admin/tokens", {"pending_form": sealed})
    assert sent.location == "/admin/tokens?topic=plant%2F7%2F%23"
    assert "plant" not in sealed


@pytest.mark.parametrize("path", ["/admin/sign-in", "/admin/tokens", "/admin/devices"])
async def test_what_is_sent_without_a_name_is_not_repeated(signed_in: SignedIn, path: str) -> None:
    """A secret sent bare, so that it stands where a field's name should, gets into no page and no log."""
    browser = await signed_in()
    with structlog.testing.capture_logs() as logs:
        seen = await browser.ask("POST", path, headers=SAME_ORIGIN | {"Content-Type": FORM}, data=f"{PASSWORD}=")
    assert seen.status == 400
    assert "correct" not in seen.text + repr(logs)


async def test_an_unknown_address_is_a_page_of_the_console(signed_in: SignedIn) -> None:
    """What is not there is said in the console's own words, with the way back."""
    seen = await (await signed_in()).get("/admin/nothing/here")
    assert seen.status == 404
    assert "Page not found" in seen.text
    assert 'href="/admin/devices"' in seen.text


@pytest.mark.parametrize("path", ["/", "/admin", "/admin/", "/admin/nothing", "/administrator", "/admin.html"])
async def test_no_page_is_without_the_headers_that_guard_it(server: TestClient[Any, Any], path: str) -> None:
    """Whatever is answered as HTML, or leads on, says what may run in it and that nobody may frame it."""
    seen = await Browser(server).get(path)
    if "json" not in seen.headers.get("Content-Type", ""):
        assert "default-src 'none'" in seen.headers["Content-Security-Policy"]
        assert seen.headers["X-Frame-Options"] == "DENY"
        assert "max-age" in seen.headers["Strict-Transport-Security"]


async def test_a_page_that_refreshes_itself_prolongs_no_session(
    server: TestClient[Any, Any], signed_in: SignedIn
) -> None:
    """A browser left open with such a page is signed out after half an hour, one that is used is not."""
    used, left_open = await signed_in(name="ada"), await signed_in(name="grace")
    clock = server.app[SERVICES].stores.redis.clock
    for minutes in (20, 40):
        clock.shift_ms = minutes * 60_000
        refreshed = await left_open.ask("GET", "/admin/", headers={"X-Refresh": "1"})
        assert (await used.get("/admin/")).status == 200
    assert refreshed.status == 401
    assert (await left_open.get("/admin/")).status == 303


async def test_a_refresh_without_a_session_is_not_redirected(server: TestClient[Any, Any]) -> None:
    """A page that refreshes itself gets 401 once the session has ended, not the sign-in page into its middle."""
    seen = await Browser(server).ask("GET", "/admin/", headers={"X-Refresh": "1"} | SAME_ORIGIN)
    assert seen.status == 401


async def test_a_carried_form_says_what_it_holds_and_no_secret(signed_in: SignedIn) -> None:
    """Anybody can have had it sealed, so whoever is to send it is shown what it says, but for what no page shows."""
    browser = await signed_in(OperatorRole.ADMIN, "ada")
    browser.cookies.clear()
    for path, form, shown, hidden in (
        ("/admin/revoke", {"all": "1", "confirm": "everything"}, '<code class="value">everything</code>', ""),
        ("/admin/tokens", {"q": "R|cloud-token", "by": "token"}, "<dd>hidden</dd>", "cloud-token"),
    ):
        late = await browser.post(path, form)
        sealed = late.text.partition('name="pending_form" value="')[2].partition('"')[0]
        back = await browser.post("/admin/sign-in", {"name": "ada", "password": PASSWORD, "pending_form": sealed})
        assert shown in back.text
        assert not hidden or hidden not in back.text
        browser.cookies.clear()


async def test_the_sign_in_page_says_how_to_add_the_first_operator(
    server: TestClient[Any, Any], signed_in: SignedIn
) -> None:
    """While there is no operator nobody can sign in, and the page names the command; later it does not."""
    assert "operators add" in (await Browser(server).get("/admin/sign-in")).text
    await signed_in(OperatorRole.VIEWER, "ada")
    assert "operators add" not in (await Browser(server).get("/admin/sign-in")).text
