"""What all instances counted, minute by minute, and how the cloud was last seen."""

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
    """Requests for a token that got one."""
    REFUSED = "refused"
    """Those that got 4xx."""
    UNAVAILABLE = "unavailable"
    """Those that got 5xx: an outage, or a fault of ours."""
    APPLIED = "applied"
    """Tokens newly got from the cloud."""
    REVOKED = "revoked"
    """Revocations that the cloud confirmed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The cloud as last seen: when a call succeeded, and when and how one failed. Times are Unix ms, 0: never.

    ``failing_since_ms`` is when the failures began that no success came after; 0 if the last call succeeded.
    """

    ok_at_ms: int = 0
    failing_since_ms: int = 0
    failed_at_ms: int = 0
    action: str = ""
    kind: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an instance counted since its last batch, by minute (of Unix time), and what it saw of the cloud."""

    number: int
    minutes: Mapping[int, Mapping[Counted, int]]
    seen: Seen


class CounterStore:
    """The figures of the last two hours as they lie in Redis."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def add(self, instance: str, batch: Batch) -> None:
        """Add a batch, in one round trip. May be sent again: a batch counts once. Raises ``Unavailable``."""
        counts: list[str | int] = []
        for place, of_minute in enumerate(batch.minutes.values(), 1):
            for counted, count in of_minute.items():
                counts += [place, counted.value, count]
        seen = batch.seen
        await self._redis.run_script(
            _ADD,
            {"batch": batch_key(instance), "cloud": CLOUD_SEEN, "minutes": [*map(minute_key, batch.minutes)]},
            batch_number=batch.number,
            ok_at_ms=seen.ok_at_ms,
            since_ms=seen.failing_since_ms,
            failed_at_ms=seen.failed_at_ms,
            action=seen.action,
            kind=seen.kind,
            code=seen.code,
            counts=counts,
        )

    async def minutes(self, first: int, last: int) -> list[dict[Counted, int]]:
        """Return what was counted in each minute from ``first`` to ``last``. Raises ``Unavailable``."""
        names = [counted.value for counted in Counted]
        rows = await self._redis.pipeline([("HMGET", minute_key(minute), *names) for minute in range(first, last + 1)])
        return [{counted: int(count or 0) for counted, count in zip(Counted, row, strict=True)} for row in rows]

    async def seen(self) -> Seen:
        """Return how the cloud was last seen, by whichever instance. Raises ``Unavailable``."""
        row = await self._redis.command(
            "HMGET", CLOUD_SEEN, "ok_at_ms", "since_ms", "failed_at_ms", "action", "kind", "code"
        )
        ok_at_ms, since_ms, failed_at_ms, action, kind, code = row
        return Seen(
            int(ok_at_ms or 0), int(since_ms or 0), int(failed_at_ms or 0), action or "", kind or "", code or ""
        )
