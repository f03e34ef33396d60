from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import TestClient

from app.model.api_keys import generate_api_key
from app.service import request_limiter
from app.service.issue import IssuedToken
from app.service.request_limiter import RequestLimiter
from app.settings import Settings
from app.tasks import end
from app.web.route import SERVICES
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import MakeCaller, OwnCloud, connected_server

MOST = 2
HEAD = "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
async def narrow_server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient[Any, Any]]:
    """An instance that works on two requests at a time; it does not look whether they proceed."""
    monkeypatch.setattr("app.container.MAX_CONCURRENT", MOST)
    monkeypatch.setattr(request_limiter, "LOOK_EVERY_S", 1000.0)
    async with connected_server(settings) as server:
        yield server


@pytest.fixture
def limiter(narrow_server: TestClient[Any, Any]) -> RequestLimiter:
    """Its limiter."""
    found: RequestLimiter = narrow_server.app[SERVICES].limiter
    return found


@pytest.fixture
def device(caller: Caller, narrow_server: TestClient[Any, Any]) -> Caller:
    """A device that calls it."""
    return replace(caller, client=narrow_server)


async def take_all_turns(limiter: RequestLimiter) -> AsyncExitStack:
    """Occupy the instance with as many requests as it works on."""
    stack = AsyncExitStack()
    for _ in range(MOST):
        await stack.enter_async_context(limiter.turn(lambda: False))
    return stack


async def until_waiting(limiter: RequestLimiter, count: int) -> None:
    """Wait until so many requests wait to be read."""

    async def waiting() -> bool:
        return limiter.waiting == count

    await until(waiting, f"{count} requests that wait to be read")


async def test_the_oauth_endpoints_wait_and_nothing_else_does(
    device: Caller, narrow_server: TestClient[Any, Any], limiter: RequestLimiter
) -> None:
    """An instance with enough to do reads no further request and refuses none; health and console are answered."""
    token = (await device.token()).body
    occupied = await take_all_turns(limiter)
    waiting = [
        asyncio.create_task(each)
        for each in (device.token(), device.introspect(token["handle"]), device.revoke("unknown"))
    ]
    await until_waiting(limiter, 3)
    for path in ("/healthz", "/readyz", "/admin/sign-in", "/openapi.json", "/.well-known/oauth-authorization-server"):
        async with narrow_server.get(path) as response:
            assert response.status == 200, path
    await occupied.aclose()
    answers = await asyncio.gather(*waiting)
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].body["access_token"] == token["access_token"]
    assert answers[1].body["active"] is True


async def test_a_requests_own_time_begins_when_it_is_read(
    device: Caller,
    narrow_server: TestClient[Any, Any],
    limiter: RequestLimiter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it waited to be read, it has all of its time for Redis and the cloud."""
    services = narrow_server.app[SERVICES]
    issue = services.issuer.issue
    deadlines: list[float] = []

    async def issue_with(*arguments: Any, deadline: float, **options: Any) -> IssuedToken:
        deadlines.append(deadline)
        issued: IssuedToken = await issue(*arguments, deadline=deadline, **options)
        return issued

    monkeypatch.setattr(services.issuer, "issue", issue_with)
    occupied = await take_all_turns(limiter)
    waiting = asyncio.create_task(device.token())
    await until_waiting(limiter, 1)
    read_at = asyncio.get_running_loop().time()
    await occupied.aclose()
    assert (await waiting).status == 200
    assert deadlines[0] >= read_at + services.settings.request_deadline_s


WAITING_FOR = ["an application", "an introspection", "a revocation", "its body", "a failure's count", "a key's count"]


@pytest.mark.parametrize("waiting_for", WAITING_FOR)
async def test_what_only_waits_holds_up_no_live_token(
    device: Caller,
    make_caller: MakeCaller,
    narrow_server: TestClient[Any, Any],
    cloud: OwnCloud,
    monkeypatch: pytest.MonkeyPatch,
    waiting_for: str,
) -> None:
    """Neither requests for a cloud that hangs, nor clients that send half a form or wrong keys."""
    monkeypatch.setattr("app.service.confirm.ANSWER_WITHIN_S", 60.0)
    monkeypatch.setattr("app.service.revoke.CONFIRM_WITHIN_S", 60.0)
    monkeypatch.setattr("app.service.failure_limits.COUNT_EVERY_S", 60.0)
    assert (await device.token_by_basic("x" * 40)).status == 401
    token = (await device.token()).body
    others = [replace(await make_caller(f"GID_plant@@@d{2 + i}"), client=narrow_server) for i in range(MOST)]
    handles = [(await other.token()).body["handle"] for other in others]
    for action in ("ApplyToken", "QueryToken", "RevokeToken"):
        await cloud.fault(action, "hang", times=None)

    async def wait(other: Caller, handle: str) -> None:
        match waiting_for:
            case "an application":
                await other.token(expires_in="600")
            case "an introspection":
                await other.introspect(handle)
            case "a revocation":
                await other.revoke(handle)
            case "a failure's count":
                await other.token_by_basic("x" * 40)
            case "a key's count":
                form, headers = {"token": handle}, {"Authorization": f"Bearer {generate_api_key().reveal()}"}
                await other.post("/oauth/introspect", form, headers=headers)
            case _:
                reader, writer = await asyncio.open_connection(narrow_server.host, narrow_server.port)
                writer.write(f"{HEAD}Content-Length: 50\r\n\r\ngrant".encode())
                try:
                    await reader.readline()
                finally:
                    writer.close()

    waiting = [asyncio.create_task(wait(*each)) for each in zip(others, handles, strict=True)]
    async with asyncio.timeout(20):
        for _ in range(5):
            assert (await device.token()).body["access_token"] == token["access_token"]
    assert not any(task.done() for task in waiting)
    await end(waiting)
    await cloud.clear()


async def test_a_client_that_goes_away_leaves_the_queue(
    device: Caller, narrow_server: TestClient[Any, Any], limiter: RequestLimiter
) -> None:
    """Its request is never worked on; the one behind it is."""
    occupied = await take_all_turns(limiter)
    _, writer = await asyncio.open_connection(narrow_server.host, narrow_server.port)
    writer.write(f"{HEAD}Content-Length: 0\r\n\r\n".encode())
    await until_waiting(limiter, 1)
    writer.transport.abort()
    behind = asyncio.create_task(device.token())
    await until_waiting(limiter, 2)
    await occupied.aclose()
    assert (await behind).status == 200
    assert limiter.waiting == 0


async def test_a_client_that_hangs_up_ends_neither_its_application_nor_keeps_its_turn(
    device: Caller, narrow_server: TestClient[Any, Any], limiter: RequestLimiter, cloud: OwnCloud
) -> None:
    """The application is the instance's: the next request gets its token, and it cost one call a cloud token."""
    await cloud.fault("ApplyToken", "hold", times=2)
    writers = []
    for _ in range(MOST):
        body = urlencode(device.form())
        _, writer = await asyncio.open_connection(narrow_server.host, narrow_server.port)
        writer.write(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        writers.append(writer)
    await cloud.until_held(2)
    for writer in writers:
        writer.transport.abort()
    await cloud.release()
    assert (await device.token()).status == 200
    assert await cloud.applied() == 2
    async with asyncio.timeout(20):
        await (await take_all_turns(limiter)).aclose()
