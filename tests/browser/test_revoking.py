"""Revoking tokens in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Request, expect

from app.cli.mqtt import ConnectionEnded, MqttConnection
from tests.actors import CLI
from tests.browser.conftest import WAIT_MS, NewPage, sign_in
from tests.browser.judge import PHONE, Judge, overflow
from tests.browser.site import ADMIN, OPERATOR, PASSWORD, SENT_OUT, VIEWER, Site
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

REVOKED = 3
"""The broker's reason when it disconnects a client with a revoked token (guide chapter 10)."""
DONE = "Done: these tokens can no longer be used, neither here nor at the broker."


@asynccontextmanager
async def connected(
    answer: dict[str, Any], heard: Callable[[str, str], None] = lambda _topic, _text: None
) -> AsyncIterator[MqttConnection]:
    """Connect to the broker with a token, as a device does; ``heard`` gets topic and text of each message."""
    connection = await asyncio.to_thread(MqttConnection, answer, heard)
    try:
        yield connection
    finally:
        await asyncio.to_thread(connection.close)


async def is_cut(connection: MqttConnection, topic: str) -> bool:
    """Publish; returns whether the broker closed the connection instead: it checks a token when it is used."""
    try:
        await asyncio.to_thread(connection.publish, topic, "21.5")
    except ConnectionEnded:
        return True
    return False


async def device(site: Site, client_id: str) -> dict[str, Any]:
    """Register a device; return its first token."""
    return await site.token(client_id, await site.register(client_id))


def revoke_button(page: Page, client_id: str) -> Locator:
    """Return the button in the row of a device's token."""
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=client_id, exact=True))
    return row.get_by_role("button", name="Revoke token")


async def test_a_token_is_found_by_topic_and_taken_back(site: Site, new_page: NewPage, judge: Judge) -> None:
    """A search by topic finds the token; two clicks revoke it, the cloud confirms, and the device is disconnected."""
    answer = await device(site, "GID_plant@@@d-hacked")
    page = await new_page(OPERATOR)
    async with connected(answer) as connection:
        assert not await is_cut(connection, "plant/d-hacked/up/x")
        await page.goto("/admin/tokens")
        await page.get_by_label("topic filter").fill("plant/d-hacked/up/x")
        await page.get_by_label("Search for").select_option(label="A topic: who can publish to it?")
        await page.get_by_role("button", name="Search").click()
        await judge.look(page)
        await revoke_button(page, "GID_plant@@@d-hacked").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Revoke this token?")
        await judge.look(page)
        await page.get_by_role("button", name="Revoke this token").click()
        await expect(page.get_by_text(DONE)).to_be_visible()
        await judge.look(page)
        await until(lambda: is_cut(connection, "plant/d-hacked/up/x"), "the device to be cut off")
        assert connection.reason == REVOKED

    # The back button leads to the confirmation page, which now says that the token is revoked.
    await page.go_back()
    await expect(page.get_by_text("This token is already revoked.")).to_be_visible()
    assert await page.get_by_role("button", name="Revoke this token").count() == 0


async def test_a_token_is_revoked_in_two_clicks(site: Site, new_page: NewPage) -> None:
    """On the overview one click asks for confirmation, and the next one revokes."""
    client_id = "GID_plant@@@d-first"
    # The overview shows the tokens that expire first.
    await site.token(client_id, await site.register(client_id), expires_in="600")
    page = await new_page(OPERATOR, viewport=PHONE)
    await revoke_button(page, client_id).click()
    await page.get_by_role("button", name="Revoke this token").click()
    await expect(page.get_by_text(DONE)).to_be_visible()


async def test_a_bulk_revoke_is_watched_to_its_end_from_anywhere(site: Site, new_page: NewPage, judge: Judge) -> None:
    """A job's progress is shown after a reload, in another operator's browser and at another instance."""
    valves = [f"GID_plant@@@v{number:02}" for number in range(8)]
    for client_id in valves:
        await device(site, client_id)
    page, other = await new_page(OPERATOR), await new_page(VIEWER)
    async with site.cloud() as cloud:
        await cloud.fault("RevokeToken", "hold", times=None)
        await page.goto("/admin/tokens?role=valve")
        await page.get_by_role("button", name="Revoke all matching tokens…").click()
        await expect(page.locator(".takes")).to_have_text("This revokes 8 tokens of 8 devices.")
        await page.get_by_role("button", name="Revoke 8 tokens").click()
        processed = "progress#processed:not([value='8'])"
        await expect(page.locator(processed)).to_be_visible()
        await judge.look(page)
        await page.reload()
        await expect(page.locator(processed)).to_be_visible()
        for instance in (site.url, site.other_url):
            await other.goto(page.url.replace(site.url, instance))
            await expect(other.locator(processed)).to_be_visible()
        await cloud.clear()
        await cloud.release("RevokeToken")
    for each in (page, other):
        await expect(each.locator("progress#processed[value='8'][max='8']")).to_be_visible(timeout=2 * WAIT_MS)
        await expect(each.locator("#progress .pill")).to_have_text("done")
    await judge.look(page)


async def test_a_second_click_does_nothing_more(site: Site, new_page: NewPage) -> None:
    """A double click submits one form; without the script, a second submit has no effect."""
    for client_id, options in (("GID_plant@@@d-twice", {}), ("GID_plant@@@d-plain", {"java_script_enabled": False})):
        await device(site, client_id)
        page = await new_page(OPERATOR, **options)
        sent: list[str] = []

        def keep(request: Request, sent: list[str] = sent) -> None:
            sent.append(request.method)

        page.on("request", keep)
        await page.goto(f"/admin/revoke?handle={await site.handle(client_id)}")
        await page.get_by_role("button", name="Revoke this token").dblclick()
        # The second submit aborts the navigation of the first, which is an error where a navigation is waited for.
        await expect(page).to_have_url(re.compile("/admin/revoked"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Revocation of 1 token")
        assert options or sent.count("POST") == 1


async def test_all_of_it_works_without_the_script(site: Site, new_page: NewPage) -> None:
    """Signing in, searching, confirming and revoking work without the script."""
    await device(site, "GID_plant@@@d-noscript")
    page = await new_page(OPERATOR, java_script_enabled=False)
    await page.goto("/admin/tokens")
    await page.get_by_label("topic filter").fill("GID_plant@@@d-noscript")
    await page.get_by_role("button", name="Search").click()
    await revoke_button(page, "GID_plant@@@d-noscript").click()
    await page.get_by_role("button", name="Revoke this token").click()
    await page.wait_for_url("**/admin/revoked?**")  # a reload before that would be of a page that is being left

    async def done() -> bool:
        await page.reload()
        return await page.get_by_text(DONE).count() == 1

    await until(done, "the page to say that it is done")


async def test_a_form_survives_the_end_of_its_session(site: Site, new_page: NewPage, judge: Judge) -> None:
    """After a session ends, an operator signs in and continues; the form is kept, and was not carried out before."""
    await device(site, "GID_plant@@@d-late")
    handle = await site.handle("GID_plant@@@d-late")
    page = await new_page(SENT_OUT)
    await page.goto(f"/admin/revoke?handle={handle}")
    async with site.office() as office:
        await office.operators.end_sessions(SENT_OUT, actor=CLI)
        await page.get_by_role("button", name="Revoke this token").click()
        await expect(page.get_by_text("Your input is kept: sign in to continue.")).to_be_visible()
        await judge.look(page)
        assert (await office.revocations.get_token(handle)).state == "live"
        await page.get_by_label("Name").fill(SENT_OUT)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Signed in again")
        await judge.look(page)
        assert (await office.revocations.get_token(handle)).state == "live"
        await page.get_by_role("button", name="Send it now").click()
        await expect(page.get_by_text(DONE)).to_be_visible()


async def test_a_keyboard_is_enough(site: Site, new_page: NewPage) -> None:
    """Signing in, finding a token and revoking it work with Tab and Enter only, and the focus is always visible."""
    await device(site, "GID_plant@@@d-keys")
    page = await new_page("")
    await page.goto("/admin/tokens")

    async def tab_to(what: str) -> None:
        for _ in range(60):
            await page.keyboard.press("Tab")
            here = page.locator(":focus")
            seen = await here.evaluate(
                """(element) => { const style = getComputedStyle(element);
                return style.outlineStyle !== "none" || style.boxShadow !== "none" }"""
            )
            assert seen, f"the focus cannot be seen on {await here.evaluate('(element) => element.outerHTML')}"
            if await here.evaluate(f"(element) => element.matches({what!r})"):
                return
        raise AssertionError(f"Tab never comes to {what}")

    await page.keyboard.press("Tab")
    await expect(page.locator(":focus")).to_have_text("Skip to content")
    await tab_to("[name=name]")
    await page.keyboard.type(ADMIN)
    await tab_to("[name=password]")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/tokens")
    await tab_to(".skip")
    await page.keyboard.press("Enter")
    await tab_to("[name=q]")
    await page.keyboard.type("GID_plant@@@d-keys")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/tokens?client_id=*")
    await tab_to("[aria-label^='Revoke token']")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/revoke?*")
    await tab_to("main form button.danger")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text(DONE)).to_be_visible()


async def test_the_language_is_switched_where_one_is(new_page: NewPage) -> None:
    """One click shows the same page in the other language, and the browser keeps that language."""
    page = await new_page(VIEWER)
    await page.goto("/admin/tokens?role=sensor")
    await page.get_by_role("button", name="简体中文").click()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    assert page.url.endswith("/admin/tokens?role=sensor")
    await page.goto("/admin/")
    await expect(page.get_by_role("heading", level=1)).to_have_text("概览")
    await page.get_by_role("button", name="English").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


async def test_a_viewer_sees_and_is_offered_nothing_to_do(new_page: NewPage, site: Site, judge: Judge) -> None:
    """A viewer sees no button that they may not use."""
    page = await new_page(VIEWER)
    for path in ("/admin/", "/admin/tokens", f"/admin/tokens/{site.paths['handle']}", "/admin/revocations"):
        await page.goto(path)
        assert await page.locator("main .danger").count() == 0, path
    await page.goto("/admin/tokens")
    await judge.look(page)
    await page.goto("/admin/revoke?all=1")
    await expect(page.get_by_role("heading", level=1)).to_have_text("You do not have permission to do this")
    await judge.look(page)


async def test_signing_in_holds_on_a_phone(new_page: NewPage, judge: Judge) -> None:
    """A wrong password shows an error on a page that fits the screen, and keeps the name."""
    page = await new_page("", viewport=PHONE)
    await page.goto("/admin/")
    await judge.look(page)
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await page.get_by_label("Name").fill("nobody")
    await page.get_by_label("Password").fill("a wrong password")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("the name or the password is wrong")
    await expect(page.get_by_label("Name")).to_have_value("nobody")
    await expect(page.get_by_label("Password")).to_have_value("")
    assert await overflow(page) == []
    await judge.look(page)
    await sign_in(page, VIEWER)
