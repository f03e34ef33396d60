"""The pages for admins, in a real browser: the explorer, operators, API keys; and the audit log."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from tests.browser.conftest import NewPage, sign_in
from tests.browser.judge import Judge
from tests.browser.site import VIEWER, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_explorer_calls_the_cloud_and_asks_before_it_changes_anything(
    new_page: NewPage, judge: Judge
) -> None:
    """An action that reads is called at once; one that makes changes asks first. Secrets are shown only on request."""
    page = await new_page()
    await page.goto("/admin/explorer")
    await page.get_by_role("link", name="ListGroupId").first.click()
    await page.get_by_role("button", name="Call ListGroupId").click()
    await expect(page.locator("main")).to_contain_text("GID_plant")
    await judge.look(page)

    await page.goto("/admin/explorer/CreateGroupId")
    await page.get_by_label("GroupId").fill("GID_by_hand")
    await page.get_by_label("XML").check()
    await page.get_by_role("button", name="Continue to CreateGroupId").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Call CreateGroupId?")
    await judge.look(page)
    await page.get_by_role("button", name="Call CreateGroupId now").click()
    await expect(page.get_by_text("The call succeeded.")).to_be_visible()
    await judge.look(page)
    await page.goto("/admin/groups")
    await expect(page.get_by_role("row", name="GID_by_hand")).to_be_visible()


async def test_an_operator_is_added_signs_in_and_is_put_out(new_page: NewPage, judge: Judge) -> None:
    """The password that is shown once works for the new operator; removing the operator ends the session at once."""
    page = await new_page()
    await page.goto("/admin/operators")
    await page.get_by_label("Name").fill("nina")
    await page.get_by_role("button", name="Add the operator").click()
    await expect(page.get_by_text("nina was added.")).to_be_visible()
    await judge.look(page)
    password = await page.locator("textarea.secret").input_value()
    hers = await new_page("")
    await sign_in(hers, "nina", password)
    await page.goto("/admin/operators/nina/remove")
    await page.locator("main form button").click()
    await expect(page.get_by_text("The operator was removed")).to_be_visible()
    await judge.look(page)
    await hers.goto("/admin/tokens")
    await expect(hers.get_by_role("heading", level=1)).to_have_text("Sign in")


async def test_an_api_key_works_until_it_is_removed(site: Site, new_page: NewPage, judge: Judge) -> None:
    """The key that is shown once works at once, and is refused after its removal."""

    async def status(text: str) -> int:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {text}"}) as session,
            session.get(f"{site.url}/api/jobs") as response,
        ):
            return response.status

    page = await new_page()
    await page.goto("/admin/keys")
    await page.get_by_label("Name").fill("night-shift")
    await page.locator("[name=rights][value=admin]").check()
    await page.get_by_role("button", name="Add the key").click()
    await expect(page.locator("textarea.secret")).to_be_visible()
    await judge.look(page)
    text = await page.locator("textarea.secret").input_value()
    assert await status(text) == 200
    await page.goto("/admin/keys/night-shift/remove")
    await page.locator("main form button").click()
    await expect(page.get_by_text("The key was removed")).to_be_visible()
    assert await status(text) == 401


async def test_the_audit_is_filtered_and_exported(site: Site, new_page: NewPage, judge: Judge, tmp_path: Path) -> None:
    """A viewer finds the events of a device and exports them."""
    page = await new_page(VIEWER)
    await page.goto("/admin/audit")
    await page.get_by_label("Client ID").fill(site.paths["disabled_id"])
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("main table")).to_contain_text("device disabled")
    async with page.expect_download() as downloading:
        await page.get_by_text("Export as CSV").click()
    path = tmp_path / "audit.csv"
    await (await downloading.value).save_as(path)
    assert "device_disabled" in path.read_text(encoding="utf-8-sig")
