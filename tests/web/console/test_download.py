"""A file that is sent as it is made takes no more than its share, its time and its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient

from app.errors import Unavailable
from app.model.operators import OperatorRole
from app.web import caller_limits
from app.web.caller_limits import CALLER_LIMITS, EXPORTS
from app.web.console import access, audit, download
from app.web.console.results import Download
from tests.waiting import until
from tests.web.console.conftest import Browser, SignedIn

Parts = AsyncGenerator[bytes, None]


class File:
    """What is exported in place of the audit log; ``ended`` is set when no more of it will be made."""

    def __init__(self, make: Callable[[], Parts]) -> None:
        self.make = make
        self.started = 0
        self.ended = asyncio.Event()

    async def parts(self, *_: Any) -> Parts:
        """Make it, as ``audit._csv_parts``."""
        self.started += 1
        try:
            async for part in self.make():
                yield part
        finally:
            self.ended.set()


async def endless() -> Parts:
    """A file without an end."""
    while True:
        yield b"x" * 65_536


async def stuck() -> Parts:
    """A file whose second part never comes."""
    yield b"the first part"
    await asyncio.Event().wait()


@pytest.fixture
async def viewer(signed_in: SignedIn) -> Browser:
    """An operator who exports."""
    return await signed_in(OperatorRole.VIEWER)


def exported(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Parts]) -> File:
    """Have this exported from now on."""
    file = File(make)
    monkeypatch.setattr(audit, "_csv_parts", file.parts)
    return file


@asynccontextmanager
async def reading(viewer: Browser) -> AsyncGenerator[asyncio.StreamReader, None]:
    """Begin an export over a connection of its own, and read its head."""
    server = viewer.client.server
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
    cookies = "; ".join(f"{name}={value}" for name, value in viewer.cookies.items())
    writer.write(f"GET /admin/audit.csv HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    try:
        yield reader
    finally:
        writer.close()


async def has_free_places(client: TestClient[Any, Any]) -> bool:
    """Return whether an operator who has none may have as many exports as allowed."""
    limiter = client.app[CALLER_LIMITS].exports
    places = [asyncio.create_task(limiter.take_place("another")) for _ in range(EXPORTS.of_one)]
    await asyncio.sleep(0)
    free = all(place.done() for place in places)
    for place in places:
        place.cancel()
        if place.done() and not place.cancelled():
            place.result().leave()
    return free


async def test_an_export_ends_when_its_reader_leaves(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a part that takes long, too: nothing more is made, and the place is left."""
    file = exported(monkeypatch, stuck)
    async with reading(viewer) as reader:
        await reader.readuntil(b"the first part")
        assert not file.ended.is_set()
    async with asyncio.timeout(20):
        await file.ended.wait()
    await until(lambda: has_free_places(viewer.client), "free places")


async def test_a_reader_who_takes_nothing_is_cut_off(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps the connection and does not read holds no place, no memory and no part for ever."""
    monkeypatch.setattr(download, "TAKEN_WITHIN_S", 0.2)
    file = exported(monkeypatch, endless)
    with structlog.testing.capture_logs() as logs:
        async with reading(viewer):
            async with asyncio.timeout(20):
                await file.ended.wait()
            await until(lambda: has_free_places(viewer.client), "free places")
    [entry] = [each for each in logs if each["event"] == "export_broken_off"]
    assert (entry["who"], entry["cause"]) == ("operator:viewer-1", "its reader is too slow")


async def test_an_export_may_not_take_for_ever(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who always takes a little is cut off too; the file is not whole, and the browser sees it."""
    monkeypatch.setattr(download, "SENT_WITHIN_S", 0.3)
    file = exported(monkeypatch, endless)
    async with reading(viewer) as reader:
        received = b""
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                received = part
    assert not received.endswith(b"0\r\n\r\n")
    assert file.ended.is_set()


async def test_too_many_exports_are_refused_with_the_cure(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of one operator are made at once, two wait, and for one more there is a page that says what to do."""
    monkeypatch.setattr(download, "ANSWER_WITHIN_S", 0.5)
    file = exported(monkeypatch, stuck)
    asked = [
        asyncio.create_task(viewer.get("/admin/audit.csv")) for _ in range(EXPORTS.of_one + EXPORTS.waiting_of_one)
    ]
    await until(lambda: _holds(lambda: file.started == EXPORTS.of_one), "four exports")
    refused = await viewer.get("/admin/audit.csv")
    assert (refused.status, refused.headers["Retry-After"]) == (503, str(caller_limits.RETRY_AFTER_S))
    assert "too many exports are being made at the moment: try again when one of them has ended" in refused.text
    waited, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result().status for task in waited} == {503}
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await until(lambda: has_free_places(viewer.client), "free places")


async def test_an_answer_that_is_never_sent_leaves_its_place(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong between taking the place and sending the file keeps no place for ever."""
    monkeypatch.setattr(download, "BEGUN_WITHIN_S", 0.05)
    exported(monkeypatch, endless)

    async def lose(request: web.Request, wanted: Download) -> web.Response:
        await download.start_download(request, wanted)
        raise Unavailable("lost")

    monkeypatch.setattr(access, "start_download", lose)
    for _ in range(EXPORTS.in_all):
        assert (await viewer.get("/admin/audit.csv")).status == 503
    await until(lambda: has_free_places(viewer.client), "free places")


def _holds(condition: Callable[[], bool]) -> Awaitable[bool]:
    async def ask() -> bool:
        return condition()

    return ask()
