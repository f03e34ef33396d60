"""What operators do takes a bounded share of an instance, by processor time and by turns of the loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from app.loop_share import LoopShare
from app.model.actors import Actor
from app.store.audit import Event, EventKind, NewEntry
from app.store.redis_keys import ALL_SHARDS
from app.web import operator_share
from app.web.oauth import OAUTH
from app.web.route import OPEN, SERVICES
from app.web.routes import API, CONSOLE, OTHERS
from tests.callers import Caller
from tests.web.conftest import ISSUER
from tests.web.console.conftest import Browser, SignedIn, cheap_passwords, signed_in
from tests.web.operators import Operator

__all__ = ["cheap_passwords", "signed_in"]

ENTRIES = 4_000
LONG_STEP_MS = 1.5
"""Three times a slice. A step may be longer now and then: the first page of a kind, a file that is read."""


class Steps:
    """The steps that were made within a share, by processor time, in ms."""

    def __init__(self, share: LoopShare, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms: list[float] = []
        spend = share._spend

        def counting(spent_s: float) -> None:
            self.ms.append(spent_s * 1000)
            spend(spent_s)

        monkeypatch.setattr(share, "_spend", counting)


@pytest.fixture
def steps(server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What is done for operators from now on."""
    return Steps(server.app[SERVICES].operators_share, monkeypatch)


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    """No step is long because of what the tests before have left in this process."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def long_audit(server: TestClient[Any, Any]) -> None:
    """An audit log that takes a while to export."""
    audit = server.app[SERVICES].stores.audit
    for first in range(0, ENTRIES, 500):
        await audit.append(
            [
                NewEntry(
                    ALL_SHARDS[number % 64].audit,
                    Event(Actor("device:GID_plant@@@d1", "0" * 16), EventKind.GRANTED, "pub:plant/d1/up/#"),
                    f"GID_plant@@@d{number}",
                )
                for number in range(first, first + 500)
            ]
        )


@asynccontextmanager
async def doing(*work: Awaitable[object]) -> AsyncIterator[None]:
    """Do all this during the block."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def look_again_and_again(browser: Browser, *paths: str) -> None:
    """Open these pages in turn, without end."""
    for path in itertools.cycle(paths):
        assert (await browser.get(path)).status == 200


@pytest.mark.usefixtures("without_garbage_collection", "long_audit")
async def test_a_token_request_waits_for_little_that_is_done_for_operators(
    steps: Steps, signed_in: SignedIn, caller: Caller
) -> None:
    """Beside four exports and searches a few steps are made while a token request is answered, each a short one.

    It is counted in processor time: however busy the machine is, a request cannot meet more than that.
    """
    browsers = [await signed_in(name=f"v{number}") for number in range(4)]
    await caller.token()
    paths = ("/admin/audit.csv", "/admin/tokens?topic=none/%23", "/admin/audit?who=operator:none")
    met_ms, met = [], []
    async with doing(*(look_again_and_again(browser, *paths) for browser in browsers)):
        for _ in range(40):
            before = len(steps.ms)
            assert (await caller.token()).status == 200
            met_ms.append(sum(steps.ms[before:]))
            met.append(len(steps.ms) - before)
    assert len(steps.ms) > 200
    in_long_steps = sum(each for each in steps.ms if each > LONG_STEP_MS) / sum(steps.ms)
    assert in_long_steps < 0.12, sorted(steps.ms)[-20:]
    assert statistics.median(met_ms) < 12
    assert statistics.median(met) < 40


@pytest.mark.usefixtures("long_audit")
async def test_all_that_is_done_for_operators_takes_a_fifth_of_the_loop(
    server: TestClient[Any, Any], steps: Steps, signed_in: SignedIn
) -> None:
    """By processor time, over two seconds, and whatever they do; only the burst comes on top."""
    operator = await Operator.of(server)
    browsers = [await signed_in(name=f"v{number}") for number in range(4)]
    before, began = len(steps.ms), time.perf_counter()

    async def list_devices() -> None:
        while True:
            await operator.get("/api/devices", limit="200")

    paths = ("/admin/audit.csv", "/admin/", "/admin/audit")
    async with doing(list_devices(), *(look_again_and_again(browser, *paths) for browser in browsers)):
        await asyncio.sleep(2)
    took_ms = (time.perf_counter() - began) * 1000
    used_ms = sum(steps.ms[before:])
    assert used_ms < 0.2 * took_ms + 50 + 50
    assert used_ms > 0.05 * took_ms


def test_every_address_for_operators_is_within_a_share_and_those_for_devices_are_not() -> None:
    """A new page or endpoint cannot be forgotten: what is in no share is listed here."""
    outside = {route.address for route in (*OTHERS, *API, *CONSOLE) if route.access.run in {OPEN.run, OAUTH.run}}
    assert outside == {
        "GET /healthz",
        "GET /readyz",
        "GET /openapi.json",
        "GET /.well-known/oauth-authorization-server",
        "POST /oauth/token",
        "POST /oauth/introspect",
        "POST /oauth/revoke",
    }


@pytest.mark.parametrize("path", ["/admin/tokens", "/api/tokens"])
async def test_where_too_much_is_asked_for_one_is_refused_at_once(
    server: TestClient[Any, Any], signed_in: SignedIn, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small page or JSON, what to do and when; strangers have a bound of their own, and so has each share."""
    browser, operator = await signed_in(), await Operator.of(server)
    monkeypatch.setattr(operator_share, "MAX_REQUESTS", 0)
    headers = operator.headers if path.startswith("/api") else {}
    seen = await browser.ask("GET", path, headers=headers)
    assert (seen.status, seen.headers["Retry-After"]) == (503, "5")
    assert "too many requests of this kind at the moment: try again later" in seen.text
    assert len(seen.text) < 1500


async def test_strangers_take_nothing_from_operators(
    server: TestClient[Any, Any], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages before signing in, forms without a session and calls without a key run in the share of visitors."""
    visitors = Steps(server.app[SERVICES].visitors_share, monkeypatch)
    for path in ("/", "/admin/sign-in", "/admin/tokens", "/api/tokens", "/admin/static/console.css"):
        before = len(visitors.ms)
        async with server.get(path, allow_redirects=False) as response:
            assert isinstance(response.status, int)
        assert len(visitors.ms) > before, path
    await asyncio.sleep(0)
    assert not any(each > 1 for each in steps.ms)


STRANGERS = 12


async def send_slowly(server: TestClient[Any, Any], address: str, header: str) -> None:
    """Send the head of a request as a stranger, and never its body."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        head = f"{address} HTTP/1.1\r\nHost: localhost\r\n{header}\r\nOrigin: {ISSUER}\r\nContent-Length: 9\r\n"
        writer.write(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode())
        await reader.read()
    finally:
        writer.close()


async def call_again_and_again(server: TestClient[Any, Any], path: str, headers: dict[str, str]) -> None:
    """Ask as a stranger, without end."""
    while True:
        async with server.get(path, headers=headers, allow_redirects=False) as response:
            assert response.status in {303, 401, 429, 503}


async def test_strangers_with_invalid_sessions_and_keys_lock_no_operator_out(
    server: TestClient[Any, Any], signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are places, with bodies that never come and in loops: they enter no operator's share."""
    browser, operator = await signed_in(), await Operator.of(server)
    invalid_session = f"__Host-session={'a' * 43}"
    wrong_key = f"Bearer {operator.key[:-1]}{'A' if operator.key[-1] != 'A' else 'B'}"
    monkeypatch.setattr(operator_share, "MAX_REQUESTS", STRANGERS // 3)
    share = server.app[SERVICES].operators_share
    slow = [
        send_slowly(server, address, f"Cookie: {invalid_session}")
        for address in ("POST /admin/revoke", "POST /admin/language", "POST /admin/sign-in")
        for _ in range(STRANGERS)
    ]
    loops = [
        call_again_and_again(server, path, headers)
        for path, headers in (
            ("/api/tokens", {"Authorization": wrong_key}),
            ("/api/tokens", {"Authorization": "Basic bm86bm8="}),
            ("/admin/tokens", {"Cookie": invalid_session}),
        )
        for _ in range(STRANGERS)
    ]
    async with doing(*slow, *loops):
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert share.in_progress == 0
            assert (await browser.get("/admin/tokens")).status == 200
            assert (await operator.get("/api/tokens")).status == 200


async def test_a_slow_sender_holds_no_place(
    server: TestClient[Any, Any], signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator signs in while strangers send that form slowly: a body is received before a place is taken."""
    await signed_in()
    monkeypatch.setattr(operator_share, "MAX_REQUESTS", STRANGERS // 3)
    slow = [send_slowly(server, "POST /admin/sign-in", "Accept: */*") for _ in range(STRANGERS)]
    async with doing(*slow):
        await asyncio.sleep(0.1)
        assert (await Browser(server).sign_in("operator-1")).status == 303


def test_the_share_of_a_request_needs_no_care_of_its_handler() -> None:
    """A handler is an ordinary coroutine function: what it awaits and returns passes through."""

    async def answer() -> web.StreamResponse:
        await asyncio.sleep(0)
        return web.Response(text="as it is")

    async def run() -> web.StreamResponse:
        return await operator_share.run_within(LoopShare(0.2, burst_s=0), answer)

    response = asyncio.run(run())
    assert isinstance(response, web.Response)
    assert response.text == "as it is"
