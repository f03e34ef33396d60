"""Every page in every language, on every screen."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from app.web.console.languages import CHINESE
from tests.browser.conftest import NewPage
from tests.browser.judge import Judge, foreign, overflow
from tests.browser.site import Site
from tests.browser.tour import names, pages

NAMES = list(names())
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_is_accessible_and_valid_and_fits(name: str, site: Site, judge: Judge, admin: Page) -> None:
    """A page violates no serious accessibility rule, light or dark, fits a desktop and a phone, and is valid HTML."""
    await admin.goto(pages(site)[name])
    await judge.look(admin)


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_is_in_chinese_for_who_reads_chinese(name: str, site: Site, chinese: Page) -> None:
    """A page in Chinese has no English sentence, and fits a phone."""
    await chinese.goto(pages(site)[name])
    assert await chinese.locator("html").get_attribute("lang") == CHINESE.tag
    assert await foreign(chinese) == []
    assert await overflow(chinese) == []


async def test_the_judge_finds_what_is_wrong(judge: Judge, new_page: NewPage) -> None:
    """The checks find a field without a label, low contrast, a duplicate id and a box that is too wide."""
    page = await new_page("")
    wrong = """<!doctype html>
<html lang="en"><head><title>Wrong</title></head><body><h1 id="a">Wrong</h1>
<p id="a" style="color: #eee; background: #fff">Pale letters</p>
<input type="text"><div style="width: 900px">Wide</div></body></html>"""
    await page.route("**/admin/wrong", lambda route: route.fulfill(body=wrong, content_type="text/html"))
    await page.goto("/admin/wrong")
    with pytest.raises(AssertionError) as found:
        await judge.look(page)
    for rule in ("no-dup-id", "input-missing-label", "no-inline-style", "color-contrast", "label", "900"):
        assert rule in str(found.value)
