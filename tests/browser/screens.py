"""`make screens`: saves a screenshot of every page to build/screens: two languages, two widths, light and dark.

``index.html`` there shows them all side by side.
"""

from __future__ import annotations

import asyncio
import html
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, Page, async_playwright

from tests.browser.conftest import sign_in
from tests.browser.judge import DESKTOP, PHONE
from tests.browser.site import ADMIN, Site, running_site
from tests.browser.tour import pages
from tests.processes import ROOT

FOLDER: Final = ROOT / "build/screens"

_LANGUAGES: Final = {"en": "en", "zh": "zh-CN"}
_VIEWS: Final[tuple[tuple[dict[str, int], Any], ...]] = ((DESKTOP, "light"), (PHONE, "light"), (DESKTOP, "dark"))
_PAGE: Final = """<!doctype html>
<meta charset="utf-8"><title>Screens</title>
<style>
  body {{ font: 14px sans-serif; background: #888 }} h2 {{ margin: 2em 0 .5em }}
  div {{ display: flex; gap: 8px; align-items: start; overflow-x: auto }} img {{ height: 640px; background: #fff }}
</style>
{rows}
"""


async def take(site: Site, browser: Browser, wanted: Sequence[str]) -> list[str]:
    """Save screenshots of the pages whose names contain one of ``wanted`` (of all pages if it is empty)."""
    chosen = {name: at for name, at in pages(site).items() if not wanted or any(part in name for part in wanted)}
    taken: list[str] = []
    for code, locale in _LANGUAGES.items():
        for size, scheme in _VIEWS:
            context = await browser.new_context(
                base_url=site.url,
                locale=locale,
                viewport=size,  # type: ignore[arg-type]
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page = await context.new_page()
            view = f"{code}-{size['width']}-{scheme}"
            taken.append(await _shoot(page, "/admin/sign-in", f"sign-in-{view}.png"))
            await sign_in(page, ADMIN)
            taken += [await _shoot(page, address, f"{name}-{view}.png") for name, address in chosen.items()]
            await context.close()
    return taken


async def _shoot(page: Page, address: str, file: str) -> str:
    await page.goto(address)
    size = page.viewport_size
    assert size is not None
    # The window is as high as the page, because fixed elements would cover its middle.
    height = await page.evaluate("document.documentElement.scrollHeight")
    await page.set_viewport_size({"width": size["width"], "height": height})
    await page.screenshot(path=FOLDER / file, full_page=True)
    await page.set_viewport_size(size)
    return file


def contact_sheet(files: Iterable[str]) -> str:
    """Return an HTML page with all screenshots, one row per page."""
    rows: dict[str, list[str]] = {}
    for file in sorted(files):
        rows.setdefault(file.rsplit("-", 3)[0], []).append(file)
    pictures = {
        name: "".join(f'<a href="{file}"><img src="{file}" alt="{file}" loading="lazy"></a>' for file in each)
        for name, each in rows.items()
    }
    return _PAGE.format(
        rows="\n".join(f"<h2>{html.escape(name)}</h2><div>{row}</div>" for name, row in pictures.items())
    )


async def _run(site: Site, program: str, wanted: list[str]) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program)
        taken = await take(site, browser, wanted)
        await browser.close()
    (FOLDER / "index.html").write_text(contact_sheet(taken))
    sys.stdout.write(f"{len(taken)} pictures in {FOLDER.relative_to(ROOT)}: open index.html there\n")


def main(wanted: list[str]) -> None:
    """Save the screenshots."""
    program = shutil.which("chromium")
    if program is None:
        sys.exit("error: chromium is not installed (apt-get install chromium fonts-noto-cjk)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "state") as site:
        asyncio.run(_run(site, program, wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
