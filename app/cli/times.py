"""Times as people write and read them at the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from app.errors import InvalidRequest

_SPAN: Final = re.compile(r"(0|[1-9][0-9]{0,8})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def span_s(text: str, option: str) -> int:
    """Read ``90s``, ``30m``, ``24h`` or ``7d`` as seconds; ``0`` needs no unit. Raises ``InvalidRequest``."""
    if text == "0":
        return 0
    match = _SPAN.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{option}: {text[:40]!r} is not a length of time: write a number and s, m, h or d: 24h")
    return int(match[1]) * _SECONDS[match[2]]


def moment_ms(text: str, option: str, now_ms: int) -> int:
    """Read ``2h`` (two hours ago) or an ISO 8601 time, UTC if it has no zone, as Unix time in ms.

    Raises ``InvalidRequest``.
    """
    if _SPAN.fullmatch(text):
        return max(0, now_ms - span_s(text, option) * 1000)
    try:
        moment = datetime.fromisoformat(text)
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{option}: {text[:40]!r} is not a time: write 2h for two hours ago, or 2026-01-31T12:00Z"
        ) from None


def shown_time(unix_ms: int) -> str:
    """Return a time, in ms since 1970, for people: ``2026-01-31 12:00:00Z``, or nothing for 0."""
    return f"{datetime.fromtimestamp(unix_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%SZ}" if unix_ms else ""


def shown_span(seconds: float) -> str:
    """Return a length of time for people: ``90 s``, ``68 min`` or ``2.0 h``."""
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"
