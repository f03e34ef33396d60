"""A small cloud for the client's tests: a real HTTP server that verifies signatures and answers as the test says."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import RETRIED, TREATMENTS
from app.cloud.quota import CallPermit, CallPlace, QuotaExhausted
from app.model.calls import CallRank
from app.model.grants import TokenType
from app.model.secrets import AccessKeySecret, CloudToken, Secret
from app.model.topics import parse_filter
from app.rpc import signature

ACCESS_KEY_SECRET = AccessKeySecret("key-secret+/=")
SECURITY_TOKEN = Secret("sts+token/=")
TOKEN = CloudToken("LzMT+XLFI5s/YWJ/MIDz4t==")
REQUEST_ID = "31782AAF-D0CC-44C3-ABFD-1B500276"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(payload: object, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON."""

    async def respond(_request: web.Request) -> web.StreamResponse:
        return web.json_response(payload, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return respond


def refuse(code: str, message: str = "No.", status: int = 400, **headers: str) -> Answer:
    """Answer with an error of chapter 7."""
    return answer({"RequestId": REQUEST_ID, "Code": code, "Message": message}, status, **headers)


def raw(
    body: bytes, content_type: str = "application/json", status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    """Answer with these very bytes."""

    async def respond(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type, **(headers or {})})

    return respond


async def hang(_request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection in place of an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@dataclass
class Cloud:
    """What the server was asked, and what it answers next; the last answer is for all calls after it."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the call, verify its signature, and answer."""
        assert (request.method, request.path_qs) == ("POST", "/")
        assert request.content_type == "application/x-www-form-urlencoded"
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        pairs = parse_qsl(await request.text(), keep_blank_values=True, strict_parsing=True)
        parameters = dict(pairs)
        assert len(parameters) == len(pairs)
        given = parameters["Signature"]
        computed = signature.rpc_signature(ACCESS_KEY_SECRET, signature.rpc_string_to_sign("POST", parameters))
        self.calls.append(parameters)
        self.called.set()
        if not signature.equal(given, computed):
            return await refuse("SignatureDoesNotMatch")(request)
        return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    """Run the server for one test."""
    cloud = Cloud()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cloud.handle)
    async with TestServer(app, shutdown_timeout=0) as server:
        cloud.url = f"http://127.0.0.1:{server.port}"
        yield cloud


@dataclass
class Place:
    """A place that has its permits as soon as it asks."""

    quota: Permits
    action: str
    count: int

    async def permit(self) -> CallPermit:
        """Give them out, or refuse."""
        if self.count > self.quota.left:
            raise QuotaExhausted(self.action, 1.0)
        self.quota.left -= self.count
        return CallPermit(self.quota.void_at, 0, is_probe=False)

    def give_back(self) -> None:
        """Do nothing: the next attempt counts as another."""

    def disconnected(self) -> None:
        """Do nothing: nothing waits here."""


@dataclass
class Permits:
    """A quota of so many permits in all; ``places`` are those taken, in calls, and ``ranks`` who asked for them."""

    left: float = math.inf
    places: int = 0
    void_at: float = math.inf
    ranks: list[tuple[str, CallRank]] = field(default_factory=list)

    @asynccontextmanager
    async def place(self, action: str, count: int = 1, *, rank: CallRank, deadline: float) -> AsyncIterator[CallPlace]:
        """Give one out."""
        self.ranks.append((action, rank))
        self.places += count
        try:
            yield Place(self, action, count)
        finally:
            self.places -= count

    def refusal(
        self, action: str, count: int = 1, *, rank: CallRank = CallRank.FIRST, deadline: float
    ) -> QuotaExhausted | None:
        """Know of none."""


def shorten_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep retries quick."""
    for kind in RETRIED:
        monkeypatch.setitem(TREATMENTS, kind, TREATMENTS[kind]._replace(back_off_s=0.01))
    monkeypatch.setattr("app.cloud.attempts.RETRY_SPREAD_S", 0.01)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


@pytest.fixture
async def client(cloud: Cloud) -> AsyncIterator[CloudClient]:
    """Open a client on that server, with a wide quota and a time of its own."""
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET, SECURITY_TOKEN)),
        quota=Permits(),
        now_ms=lambda: 1_609_434_061_999,
        attempt_timeout_s=0.5,
    ).connect() as opened:
        yield opened


async def apply(client: CloudClient, type_: TokenType, expires_at_ms: int, *, deadline: float) -> CloudToken:
    """Apply for one token, for the topic ``a``. Raises the error."""
    applied = await client.apply_tokens([(type_, (parse_filter("a"),))], lambda: expires_at_ms, deadline=deadline)
    for error in applied.errors:
        raise error
    assert applied.expires_at_ms == expires_at_ms
    return applied.tokens[type_]


def soon(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
def stopwatch() -> Callable[[], float]:
    """Measure the seconds since the test began."""
    started = time.monotonic()
    return lambda: time.monotonic() - started
