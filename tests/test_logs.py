from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from app.logs import REQUEST_ID, configure_logging
from app.model.secrets import Secret


@pytest.fixture
def restored() -> Iterator[None]:
    """What configuring the log changes, put back afterwards."""
    level, handlers = logging.getLogger("aiohttp.server").level, logging.root.handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger("aiohttp.server").setLevel(level)
    logging.root.handlers[:] = handlers


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the line just written."""
    text = capsys.readouterr().out
    assert text.endswith("\n")
    assert text.isascii()
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_is_json_with_level_time_and_request(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """While a request is served its lines bear its ID; others bear none."""
    configure_logging("info")
    log = structlog.get_logger()
    log.info("outside", handle="h")
    line = last(capsys)
    assert (line["event"], line["level"], line["handle"]) == ("outside", "info", "h")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
    assert "request_id" not in line
    token = REQUEST_ID.set("r1")
    log.warning("inside")
    assert last(capsys)["request_id"] == "r1"
    log.warning("call", request_id="the cloud's own")
    assert last(capsys)["request_id"] == "the cloud's own"
    REQUEST_ID.reset(token)
    log.debug("below the level")
    assert capsys.readouterr().out == ""


def test_nothing_a_caller_sends_breaks_a_line(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks, terminal controls, half surrogates and secrets are shown as text, or not at all."""
    configure_logging("info")
    log = structlog.get_logger()
    log.info("request", path="/a\n{}\x1b[2J\x9b\ud800\u2028é", secret=Secret("hidden"))
    line = last(capsys)
    assert line["path"] == "/a\n{}\x1b[2J\x9b\ud800\u2028é"
    assert line["secret"] == "Secret()"


def test_a_broken_handler_leaves_its_traceback_in_one_line(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback is a member of the line, which is an error."""
    configure_logging("info")
    try:
        int("why")
    except ValueError:
        structlog.get_logger().exception("broken")
    line = last(capsys)
    assert line["level"] == "error"
    assert "ValueError: invalid literal" in line["exception"]
