"""Clients that let an instance wait: for headers, for a body, for the next request, or until an answer is read."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from app.web import request_input, shutdown
from tests.web.sockets.clients import FORM, GET, LARGE, SHORT_S, Start, check_refused

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("first", "drop"),
    [(b"\r\n", b"\r\n"), (b"GET /", b"x"), (HEAD + b"X-A: ", b"x"), (HEAD, b"X-A: x\r\n")],
    ids=["empty lines", "the path", "a header", "headers"],
)
async def test_headers_that_drip_are_cut(start: Start, first: bytes, drop: bytes) -> None:
    """Slowloris: a byte now and then never completes the headers. The time does not begin anew with each byte."""
    instance = await start(headers_s=SHORT_S)
    client = await instance.connect(first)
    instance.drip(client, drop)
    check_refused(await client.answer(), 408, "invalid_request")
    assert await client.until_closed() == b""
    await instance.until_open(0)


async def test_half_a_request_is_cut(start: Start) -> None:
    """A client sends half a request line and stops: it is answered, and logged once, without what it sent."""
    instance = await start(headers_s=SHORT_S)
    with capture_logs() as logs:
        client = await instance.connect(b"GET /secret")
        check_refused(await client.answer(), 408, "invalid_request")
        await client.until_closed()
    [entry] = [each for each in logs if each["event"] == "request"]
    assert (entry["status"], entry["error"], entry["cause"]) == (408, "invalid_request", "RequestTimeout")
    assert "secret" not in json.dumps(logs, default=repr)


async def test_a_connection_that_sends_nothing_is_cut(start: Start) -> None:
    """It is closed without an answer: a browser that connects ahead would take one for that to its next request."""
    instance = await start(headers_s=SHORT_S)
    client = await instance.connect()
    assert await client.until_closed() == b""
    await instance.until_open(0)


async def test_the_next_requests_headers_have_a_limit_too(start: Start) -> None:
    """Slowloris after a first request: the limit of headers holds from their first byte, not the longer idle limit."""
    instance = await start(headers_s=SHORT_S)
    client = await instance.connect(GET)
    assert (await client.answer()).status == 200
    client.send(b"GET /")
    instance.drip(client)
    check_refused(await client.answer(), 408, "invalid_request")
    await instance.until_open(0)


async def test_an_idle_connection_outlives_the_limit_of_headers(start: Start) -> None:
    """A client that keeps its connection sends the next request when it likes, within the idle limit."""
    instance = await start(headers_s=SHORT_S)
    kept = await instance.connect(GET)
    assert (await kept.answer()).status == 200
    other = await instance.connect()
    await other.until_closed()  # which is longer than the limit of headers
    kept.send(GET)
    assert (await kept.answer()).status == 200


async def test_an_idle_connection_is_cut(start: Start) -> None:
    """A client that sends one request and keeps the connection forever."""
    instance = await start(idle_s=SHORT_S)
    client = await instance.connect(GET)
    assert (await client.answer()).status == 200
    assert await client.until_closed() == b""
    await instance.until_open(0)


async def test_a_request_that_waits_is_not_cut(start: Start) -> None:
    """A busy instance lets requests wait: neither limit holds for a client that has sent its request."""
    instance = await start(headers_s=SHORT_S, idle_s=SHORT_S, unread_s=SHORT_S)
    [waiting] = await instance.hold(1)
    await (await instance.connect()).until_closed()
    await (await instance.connect()).until_closed()
    assert waiting.is_open
    instance.release.set()
    assert (await waiting.answer()).status == 200


@pytest.mark.parametrize("answers", [1, 24], ids=["one large answer", "pipelined requests"])
async def test_a_client_that_reads_nothing_is_cut(start: Start, answers: int) -> None:
    """What it does not read would lie in memory, and closing would wait until it is read."""
    instance = await start(unread_s=SHORT_S)
    client = await instance.connect(LARGE * answers, receive_bytes=4096)
    client.stop_reading()
    await instance.until_open(1)
    await instance.until_open(0)


async def test_an_answer_that_nobody_reads_does_not_outlive_its_connection(start: Start) -> None:
    """The idle limit closes a connection whose answer lies unread: aiohttp alone would wait for the reader forever."""
    instance = await start(unread_s=SHORT_S, idle_s=SHORT_S)
    client = await instance.connect(LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), receive_bytes=4096)
    client.stop_reading()
    await instance.until_open(1)
    await instance.until_open(0)


async def test_a_slow_reader_is_not_cut(start: Start) -> None:
    """A client that reads slowly but steadily gets all of a large answer."""
    instance = await start(unread_s=0.5)
    client = await instance.connect(LARGE, receive_bytes=2**16)
    async with asyncio.timeout(30):
        head = await client.reader.readuntil(b"\r\n\r\n")
        left = 2**22
        while left:
            left -= len(await client.reader.read(2**16))
            await asyncio.sleep(0.02)
    assert b" 200 " in head


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (FORM + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (FORM + b"Content-Length: 60000\r\n\r\n", b"a"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"a"),
    ],
    ids=["chunked form", "form", "chunked, not read", "not read"],
)
async def test_a_body_that_drips_is_cut(
    start: Start, monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes
) -> None:
    """R-U-Dead-Yet: the headers are complete, and the body never is. It is cut also where no handler reads it."""
    monkeypatch.setattr(request_input, "BODY_WITHIN_S", SHORT_S)
    monkeypatch.setattr(shutdown, "LINGER_S", SHORT_S)
    instance = await start()
    client = await instance.connect(head)
    instance.drip(client, drop)
    assert (await client.answer()).status in {200, 400, 404}
    await client.until_closed()
    await instance.until_open(0)


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=["CONNECT", "Upgrade"],
)
async def test_another_protocol_has_the_same_limits(start: Start, sent: bytes) -> None:
    """A client that asks for a tunnel or another protocol, gets neither, and then sends what is not HTTP."""
    instance = await start(headers_s=SHORT_S, idle_s=1)
    client = await instance.connect(sent)
    assert (await client.answer()).status in {200, 400, 404, 405}
    instance.drip(client)
    await client.until_closed()
    await instance.until_open(0)
