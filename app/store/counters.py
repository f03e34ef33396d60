"""Counters of all instances, minute by minute, and when calls to the cloud last succeeded and failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.store.redis_keys import CLOUD_SEEN, batch_key, minute_key
from app.store.script import Script
from app.store.store import Store

_ADD: Final = Script("add_counters")

MINUTE_MS: Final = 60_000


class Counted(StrEnum):
    """What is counted."""

    ANSWERED = "answered"
    """Token requests that got a token."""
    REFUSED = "refused"
    """Token requests that got 4xx."""
    UNAVAILABLE = "unavailable"
    """Token requests that got 5xx: an outage, or a fault of the server."""
    APPLIED = "applied"
    """New tokens from the cloud."""
    REVOKED = "revoked"
    """Revocations that the cloud confirmed."""


@dataclass(frozen=True, slots=True)
class CloudHealth:
    """When a call to the cloud last succeeded, and when and how one last failed. Times are Unix ms, 0: never.

    ``failing_since_ms`` is the first failure after the last success; 0 if the last call succeeded.
    """

    ok_at_ms: int = 0
    failing_since_ms: int = 0
    failed_at_ms: int = 0
    action: str = ""
    kind: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an instance counted since its last batch, by minute of Unix time, and what it saw of the cloud."""

    number: int
    minutes: Mapping[int, Mapping[Counted, int]]
    health: CloudHealth


class CounterStore:
    """The counters of the last two hours."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def add_batch(self, instance: str, batch: Batch) -> None:
        """Add a batch, in one round trip. May be sent again: a batch counts once. Raises ``Unavailable``."""
        counts: list[str | int] = []
        for position, of_minute in enumerate(batch.minutes.values(), 1):
            for counted, count in of_minute.items():
                counts += [position, counted.value, count]
        health = batch.health
        await self._redis.run_script(
            _ADD,
            {"batch": batch_key(instance), "cloud": CLOUD_SEEN, "minutes": [*map(minute_key, batch.minutes)]},
            batch_number=batch.number,
            ok_at_ms=health.ok_at_ms,
            since_ms=health.failing_since_ms,
            failed_at_ms=health.failed_at_ms,
            action=health.action,
            kind=health.kind,
            code=health.code,
            counts=counts,
        )

    async def read_minutes(self, first: int, last: int) -> list[dict[Counted, int]]:
        """Return what was counted in each minute from ``first`` to ``last``. Raises ``Unavailable``."""
        names = [counted.value for counted in Counted]
        rows = await self._redis.pipeline([("HMGET", minute_key(minute), *names) for minute in range(first, last + 1)])
        return [{counted: int(count or 0) for counted, count in zip(Counted, row, strict=True)} for row in rows]

    async def read_cloud_health(self) -> CloudHealth:
        """Return when calls to the cloud last succeeded and failed, at any instance. Raises ``Unavailable``."""
        row = await self._redis.command(
            "HMGET", CLOUD_SEEN, "ok_at_ms", "since_ms", "failed_at_ms", "action", "kind", "code"
        )
        ok_at_ms, since_ms, failed_at_ms, action, kind, code = row
        return CloudHealth(
            int(ok_at_ms or 0), int(since_ms or 0), int(failed_at_ms or 0), action or "", kind or "", code or ""
        )
