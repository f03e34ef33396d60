from __future__ import annotations

import asyncio
import json
import logging

import pytest
import structlog

from app.settings import Settings
from tests.web.test_drain import listening

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
