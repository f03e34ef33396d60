"""Every page, as each reader may see it."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from app.web.console.languages import CHINESE
from tests.browser.judge import Judge, foreign, overflow
from tests.browser.site import Site
from tests.browser.tour import names, pages

NAMES = list(names())
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_is_accessible_and_fits(name: str, site: Site, judge: Judge, admin: Page) -> None:
    """A page breaks no serious rule of accessibility, light or dark, and fits a desk and a phone."""
    await admin.goto(pages(site)[name])
    await judge.look(admin, name)


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_is_in_chinese_for_who_reads_chinese(name: str, site: Site, chinese: Page) -> None:
    """No English sentence is left on a page in Chinese, and it fits a phone."""
    await chinese.goto(pages(site)[name])
    assert await chinese.locator("html").get_attribute("lang") == CHINESE.tag
    assert await foreign(chinese) == []
    assert await overflow(chinese) == []
