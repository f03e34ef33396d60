"""Checks of every page: accessibility, width of the screen, valid HTML, and no errors in the browser."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from playwright.async_api import ConsoleMessage, Page, Response

from tests.browser.site import NOTES

PHONE: Final = {"width": 390, "height": 844}
DESKTOP: Final = {"width": 1280, "height": 800}

_REFUSED: Final = "Failed to load resource: the server responded with a status of 4"
_IMPACTS: Final = {"serious", "critical"}
_FOREIGN: Final = re.compile(r"[^\u4e00-\u9fff]*[A-Za-z]{2,}[ ,;:.]+[A-Za-z]{2,}[ ,;:.]+[A-Za-z]{2,}[^\u4e00-\u9fff]*")
"""Three Latin words in a row without Chinese. Names and roles are single words."""


@dataclass
class Validator:
    """Validates HTML, in its own process."""

    process: asyncio.subprocess.Process

    @classmethod
    @asynccontextmanager
    async def running(cls, node: str) -> AsyncIterator[Validator]:
        """Run it."""
        process = await asyncio.create_subprocess_exec(
            node, str(Path(__file__).with_name("validator.mjs")), stdin=PIPE, stdout=PIPE, limit=2**20
        )
        yield cls(process)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    async def complaints(self, page: str) -> list[str]:
        """Return what is wrong with a page's HTML."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(page).encode() + b"\n")
        found: list[str] = json.loads(await self.process.stdout.readline())
        return found


@dataclass
class Judge:
    """Checks pages, and the HTML document that each was loaded from."""

    axe: str
    validator: Validator
    complaints: list[str] = field(default_factory=list)
    documents: dict[Page, Response] = field(default_factory=dict)

    def watch(self, page: Page) -> None:
        """Record the browser's errors on a page (violated policies too), and the documents that it loads."""
        page.on("console", lambda message: self._hear(page, message))
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("response", lambda response: self._keep(page, response))

    def _hear(self, page: Page, message: ConsoleMessage) -> None:
        # The browser reports each response with an error status; pages of refusals have one.
        if not (message.text.startswith(_REFUSED) and "/static/" not in message.location["url"]):
            self.complaints.append(f"{page.url}: {message.text}")

    def _keep(self, page: Page, response: Response) -> None:
        if response.request.resource_type == "document" and response.request.frame == page.main_frame:
            self.documents[page] = response

    async def look(self, page: Page) -> None:
        """Assert that the page is right in light and dark, on a phone, and as HTML."""
        wrong = await self.validator.complaints(await self.documents[page].text())
        # All rules once; in dark mode only the contrast.
        wrong += await self._violations(page, "light", {})
        wrong += await self._violations(page, "dark", {"runOnly": ["color-contrast"]})
        for size in (PHONE, DESKTOP):
            await page.set_viewport_size(size)  # type: ignore[arg-type]
            wrong += await overflow(page)
        wrong += self.complaints
        assert not wrong, "\n".join(wrong)

    async def _violations(self, page: Page, scheme: Any, options: dict[str, Any]) -> list[str]:
        """Return the serious violations that axe finds: rule, and the elements that break it."""
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        # By the debugger, which the page's policy does not restrict: the policy itself is not changed for tests.
        session = await page.context.new_cdp_session(page)
        await session.send("Runtime.evaluate", {"expression": f"if (!window.axe) {{ {self.axe} }} 0"})
        expression = f"axe.run(document, {json.dumps(options)}).then((found) => JSON.stringify(found.violations))"
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = await session.send("Runtime.evaluate", asked)
        await session.detach()
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return [
            f"{page.url} ({scheme}): {each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in json.loads(answer["result"]["value"])
            if each["impact"] in _IMPACTS
            for node in each["nodes"]
        ]


async def overflow(page: Page) -> list[str]:
    """Return what makes the page wider than the screen; what scrolls in a box of its own does not."""
    found: list[str] = await page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [
          `${location.pathname}: ${document.documentElement.scrollWidth} > ${innerWidth}`,
          ...[...document.querySelectorAll("body *")]
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
            .slice(0, 5).map((element) => element.outerHTML.slice(0, 160)),
        ]"""
    )
    return found


async def foreign(page: Page) -> list[str]:
    """Return the sentences of a page in Chinese that are in English, and neither marked so nor somebody's notes."""
    texts: list[str] = await page.evaluate(
        """() => {
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
          while (walker.nextNode())
            if (!walker.currentNode.parentElement.closest("code, pre, textarea, script, [lang=en], [translate=no]"))
              found.push(walker.currentNode.data);
          for (const name of ["aria-label", "title", "alt", "placeholder"])
            for (const element of document.querySelectorAll(`[${name}]`)) found.push(element.getAttribute(name));
          return found;
        }"""
    )
    return [text.strip() for text in texts if _FOREIGN.fullmatch(text.strip()) and text.strip() not in NOTES]
