"""Counters: kept in this process, and added to Redis every two seconds, so that no request waits for it."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import structlog

from app.cloud.quota import CallOutcome
from app.errors import Unavailable
from app.store.clock import RedisClock
from app.store.constants import COUNTERS_KEPT_MS
from app.store.counters import MINUTE_MS, Batch, CloudHealth, Counted, CounterStore
from app.store.quota import QuotaUsage, QuotaUsageReader

log = structlog.get_logger(__name__)

ADD_EVERY_S: Final = 2.0
HOUR_MINUTES: Final = 60
MAX_CODE_CHARS: Final = 80
MAIN_ACTIONS: Final = ("ApplyToken", "QueryToken", "RevokeToken")

_BAD_REQUEST: Final = 400
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Minute:
    """The counts of all instances in one minute, which begins at ``at_ms`` (Unix ms)."""

    at_ms: int
    answered: int = 0
    refused: int = 0
    unavailable: int = 0
    applied: int = 0
    revoked: int = 0

    @property
    def turned_away(self) -> int:
        """How many requests got no token, for any reason."""
        return self.refused + self.unavailable


@dataclass(frozen=True, slots=True)
class Hour:
    """The last sixty minutes, the oldest first; the last one is not over yet."""

    minutes: tuple[Minute, ...]

    @property
    def total(self) -> Minute:
        """The sum of all minutes."""
        names = [counted.value for counted in Counted]
        sums = {name: sum(getattr(minute, name) for minute in self.minutes) for name in names}
        return Minute(self.minutes[0].at_ms, **sums)


class Metrics:
    """Counts for this instance, and reads the counts of all instances."""

    def __init__(self, store: CounterStore, usage: QuotaUsageReader, clock: RedisClock) -> None:
        """Add to ``store``, read the quotas' usage from ``usage``, and take the minute from ``clock``."""
        self._store = store
        self._usage = usage
        self._clock = clock
        self._name = secrets.token_urlsafe(8)
        self._counts: Counter[Counted] = Counter()
        self._minutes: dict[int, Counter[Counted]] = {}
        self._health = CloudHealth()
        self._added_health = CloudHealth()
        self._number = 0
        self._batch: Batch | None = None

    def answered(self, status: int) -> None:
        """Count an answer to a token request by its HTTP status."""
        if status < _BAD_REQUEST:
            self._counts[Counted.ANSWERED] += 1
        else:
            self._counts[Counted.REFUSED if status < _SERVER_ERROR else Counted.UNAVAILABLE] += 1

    def applied(self) -> None:
        """Count a token that the cloud issued."""
        self._counts[Counted.APPLIED] += 1

    def revoked(self) -> None:
        """Count a revocation that the cloud confirmed."""
        self._counts[Counted.REVOKED] += 1

    def called(self, outcome: CallOutcome) -> None:
        """Note how an attempt to call the cloud ended."""
        action, error, _permit = outcome
        now_ms = self._clock.now_ms()
        if error is None:
            self._health = replace(self._health, ok_at_ms=now_ms, failing_since_ms=0)
        else:
            since_ms = self._health.failing_since_ms or now_ms
            code = error.code[:MAX_CODE_CHARS]
            self._health = CloudHealth(self._health.ok_at_ms, since_ms, now_ms, action, error.kind.value, code)

    async def add_regularly(self) -> None:
        """Add the counts every two seconds until cancelled; then once more."""
        away = False
        try:
            while True:
                await asyncio.sleep(ADD_EVERY_S)
                try:
                    await self.add_counts()
                except Unavailable as error:
                    if not away:
                        log.warning("counters_not_added", cause=error.cause)
                    away = True
                else:
                    away = False
        finally:
            await self._add_last()

    async def add_counts(self) -> None:
        """Add the counts to Redis. What cannot be added is kept, for as long as it would be in Redis.

        Raises ``Unavailable``.
        """
        self._move_counts()
        if self._batch:
            # Redis may have taken it the last time, and then ignores it: newer counts go into the next batch.
            await self._send(self._batch)
        if self._minutes or self._health != self._added_health:
            self._number += 1
            self._batch = Batch(self._number, self._minutes, self._health)
            self._minutes = {}
            await self._send(self._batch)

    async def last_hour(self) -> Hour:
        """Return the counts of the last hour of all instances. Raises ``Unavailable``."""
        last = self._clock.now_ms() // MINUTE_MS
        rows = await self._store.read_minutes(last - HOUR_MINUTES + 1, last)
        return Hour(
            tuple(
                Minute(minute * MINUTE_MS, **{counted.value: count for counted, count in row.items()})
                for minute, row in enumerate(rows, last - HOUR_MINUTES + 1)
            )
        )

    async def cloud_health(self) -> CloudHealth:
        """Return when calls of any instance last succeeded and failed. Raises ``Unavailable``."""
        return await self._store.read_cloud_health()

    async def quota_usage(self) -> list[QuotaUsage]:
        """Return the usage of the egress group, the main actions, and other actions in use. Raises ``Unavailable``."""
        usages = await self._usage.read_usage()
        return [usage for usage in usages if usage.action in {"", *MAIN_ACTIONS} or usage.taken or usage.waiting]

    async def _send(self, batch: Batch) -> None:
        await self._store.add_batch(self._name, batch)
        self._added_health = batch.health
        self._batch = None

    def _move_counts(self) -> None:
        """Move the counts to the current minute, and forget minutes that Redis would not keep any more."""
        minute = self._clock.now_ms() // MINUTE_MS
        if self._counts:
            self._minutes.setdefault(minute, Counter()).update(self._counts)
            self._counts.clear()
        oldest = minute - COUNTERS_KEPT_MS // MINUTE_MS
        self._minutes = {each: counts for each, counts in self._minutes.items() if each > oldest}

    async def _add_last(self) -> None:
        try:
            await self.add_counts()
        except Unavailable as error:
            log.warning("counters_lost", cause=error.cause)
