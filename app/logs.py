"""The log: one JSON object a line on standard output, each line of a request with that request's ID."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import structlog

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id")
"""Set while a request is served, and in the tasks it starts."""

# In ASCII: what a caller sent is shown without what could steer a terminal.
_to_json: Final = json.JSONEncoder(default=repr).encode


def configure_logging(level: str) -> None:
    """Log what has at least this level. Each line is written at once, so that none is lost with its process."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[_stamp, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), format="%(levelname)s %(name)s %(message)s")
    # It quotes the bytes of a malformed request, an Authorization header among them. What a handler raises is logged by
    # the envelope.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _stamp(_: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add level, time and request ID."""
    event["level"] = "error" if level == "exception" else level
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if request_id := REQUEST_ID.get(""):
        event.setdefault("request_id", request_id)  # the cloud's own ID of a call has the same name
    return event


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return _to_json(event)
