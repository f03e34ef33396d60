from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re

import aiohttp
import attr
import pytest
import structlog
from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from app.settings import Settings
from tests.processes import ROOT
from tests.web.test_shutdown import listening

SECRET = "LzMTXLFl5sYWJMlDz4tLq5HC1iGU1P28HAMaxYxn8aQbALNtml7QZKl9L9kPe6"

CHUNKED = (
    "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    "Transfer-Encoding: chunked\r\n"
)


@pytest.mark.parametrize(
    ("sent", "cure"),
    [
        (f"GET /api/tokens/{SECRET * 150} HTTP/1.1\r\nHost: x\r\n\r\n", "too long"),
        (f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET * 150}\r\n\r\n", "too long"),
        (f"GET /{SECRET} HTTP/1.1\r\nno header {SECRET}\r\n\r\n", "HTTP/1.1"),
        (f"{SECRET}\r\n\r\n", "HTTP/1.1"),
        (f"GET /{SECRET} HTTP/9.x\r\n\r\n", "HTTP/1.1"),
        (f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n", "HTTP/1.1"),
        (f"{CHUNKED}\r\n{SECRET}\r\n{SECRET}\r\n0\r\n\r\n", "HTTP/1.1"),
    ],
)
async def test_what_cannot_be_read_is_refused_as_all_else_and_quoted_nowhere(
    settings: Settings, caplog: pytest.LogCaptureFixture, sent: str, cure: str
) -> None:
    """The one form of error with the headers of every answer, one line in the log, and no word of what was sent."""
    async with listening(settings.model_copy(update={"drain_s": 0.0})) as (instance, _):
        host, port = instance.addresses[0][:2]
        with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as lines:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(sent.encode())
            answer = (await reader.read()).decode()
            writer.close()
        await instance.cleanup()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.split()[1] == "400"
    for name in ("X-Request-ID: ", "X-Timestamp: ", "X-Content-Type-Options: nosniff", "Server: mqtt-token-server"):
        assert f"\r\n{name}" in head
    assert "\r\nContent-Type: application/json" in head
    told = json.loads(body)
    assert told["error"] == "invalid_request"
    assert cure in told["error_description"]
    [line] = [each for each in lines if each["event"] == "request"]
    assert (line["status"], line["error"]) == (400, "invalid_request")
    assert line["request_id"] in head
    assert SECRET[:20] not in answer + json.dumps(lines, default=repr) + caplog.text


AIOHTTP = f"aiohttp {aiohttp.__version__} has changed a private part that app/web/aiohttp_internals.py uses: "


async def test_aiohttp_has_the_private_parts_that_are_used() -> None:
    """Each of them, as it is used there: another aiohttp that lacks one is found out here, by its name."""
    server = web.Server(unused_handler, access_log=None)
    for name in ("_kwargs", "_loop", "request_handler", "request_factory", "handler_cancellation"):
        assert hasattr(server, name), f"{AIOHTTP}web.Server.{name}"
    assert server._kwargs == {"access_log": None}, f"{AIOHTTP}web.Server._kwargs"
    for name in (
        "_current_request",
        "_keepalive_timeout",
        "_messages",
        "_next_keepalive_close_time",
        "_request_count",
        "_request_handler",
        "_request_in_progress",
        "_waiter",
    ):
        assert name in web.RequestHandler.__slots__, f"{AIOHTTP}web.RequestHandler.{name}"
    assert [each.name for each in attr.fields(_ErrInfo)] == ["status", "exc", "message"], f"{AIOHTTP}_ErrInfo"
    handle_error = inspect.signature(web.RequestHandler.handle_error)
    assert list(handle_error.parameters) == ["self", "request", "status", "exc", "message"], (
        f"{AIOHTTP}web.RequestHandler.handle_error{handle_error}"
    )
    for name in ("_make_server", "_cleanup_server"):
        assert inspect.iscoroutinefunction(getattr(web.AppRunner, name)), f"{AIOHTTP}web.AppRunner.{name}"


async def unused_handler(_: web.BaseRequest) -> web.StreamResponse:
    """Be passed to a server that serves nothing."""
    raise NotImplementedError


def test_no_other_file_uses_private_parts_of_aiohttp() -> None:
    """They are in one file, so that an upgrade of aiohttp has one file to look at."""
    private = re.compile(
        r"# noqa: SLF001|def _make_server|def handle_error|aiohttp\.web_protocol|web\.RequestHandler\b|\(web\.Server\)"
    )
    users = {path.name for path in (ROOT / "app/web").rglob("*.py") if private.search(path.read_text())}
    assert users == {"aiohttp_internals.py"}
