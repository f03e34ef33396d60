"""Fixtures: one browser and one console for all tests, and a checker of every page that they open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.judge import DESKTOP, PHONE, Judge, Validator
from tests.browser.site import ADMIN, PASSWORD, Site, running_site
from tests.conftest import lack

WAIT_MS = 15_000
"""The timeout of an action on a page, for a busy machine."""

NewPage = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
def chromium_path(need_program: Callable[[str], str]) -> str:
    """The system's Chromium."""
    return need_program("chromium")


@pytest.fixture(scope="session")
def node_modules(chromium_path: str) -> Path:
    """The programs that check pages; they need the browser."""
    path = Path(__file__).with_name("node_modules")
    if not path.is_dir():
        lack("what judges pages is not installed: npm ci --prefix tests/browser --ignore-scripts")
    return path


@pytest.fixture(scope="session")
def site(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A console with data. A test registers the devices that it changes."""
    with running_site(tmp_path_factory.mktemp("browser") / "state") as site:
        yield site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium(chromium_path: str) -> AsyncIterator[Browser]:
    """One browser. A test that needs its own session opens a page with its own cookies."""
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def judge(node_modules: Path, need_program: Callable[[str], str]) -> AsyncIterator[Judge]:
    """The checker of pages."""
    axe = (node_modules / "axe-core/axe.min.js").read_text(encoding="utf-8")
    async with Validator.running(need_program("node")) as validator:
        yield Judge(axe, validator)


@pytest.fixture(autouse=True)
def no_complaint(judge: Judge) -> Iterator[None]:
    """In no test does the browser report an error: of a script, of a violated policy, or of a missing file."""
    judge.complaints.clear()
    yield
    assert judge.complaints == []


@dataclass
class Opener:
    """Opens browser contexts. It reuses sessions, because signing in is slow (password hashing)."""

    chromium: Browser
    site: Site
    judge: Judge
    cookies: dict[str, Any] = field(default_factory=dict)

    async def open(self, name: str = ADMIN, language: str = "en", **options: Any) -> Page:
        """Open another browser's first page, signed in if ``name`` is given."""
        context = await self.chromium.new_context(
            base_url=self.site.url,
            locale=language,
            storage_state=self.cookies.get(name),
            **{"viewport": DESKTOP} | options,
        )
        context.set_default_timeout(WAIT_MS)
        page = await context.new_page()
        self.judge.watch(page)
        if name and name not in self.cookies:
            await sign_in(page, name)
            self.cookies[name] = await context.storage_state()
        elif name:
            await page.goto("/admin/")
        return page


@pytest.fixture(scope="session")
def opener(chromium: Browser, site: Site, judge: Judge) -> Opener:
    """The opener of browser contexts."""
    return Opener(chromium, site, judge)


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(opener: Opener) -> AsyncIterator[NewPage]:
    """A function that opens another browser's first page, as ``Opener.open``; all are closed after the test."""
    pages: list[Page] = []

    async def make(*arguments: Any, **options: Any) -> Page:
        pages.append(await opener.open(*arguments, **options))
        return pages[-1]

    yield make
    for page in pages:
        await page.context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def admin(opener: Opener) -> Page:
    """An admin's page, shared by all tests that change nothing."""
    return await opener.open(ADMIN)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chinese(opener: Opener) -> Page:
    """An admin's page in Chinese on a phone, shared by all tests that change nothing."""
    return await opener.open(ADMIN, "zh-CN", viewport=PHONE)


async def sign_in(page: Page, name: str, password: str = PASSWORD, *, at: str = "/admin/") -> None:
    """Sign in as a person does, on the way to ``at``."""
    await page.goto(at)
    await page.locator("[name=name]").fill(name)
    await page.locator("[name=password]").fill(password)
    await page.locator("main form button").click()
    await page.wait_for_url(f"**{at}")
