"""Writing a moment for machines."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(unix_ms: int) -> str:
    """Return a moment in UTC as RFC 3339 writes it, to the millisecond: ``2026-01-31T12:00:00.000Z``."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
