"""Counting: in this process with every request, in Redis every couple of seconds, so that a request waits for none."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import structlog

from app.cloud.errors import CloudError
from app.errors import Unavailable
from app.store.clock import RedisClock
from app.store.constants import COUNTERS_KEPT_MS
from app.store.counters import MINUTE_MS, Batch, CloudHealth, Counted, CounterStore
from app.store.quota import QuotaUsage, QuotaUsageReader

log = structlog.get_logger(__name__)

ADD_EVERY_S: Final = 2.0
HOUR: Final = 60
MAX_CODE_CHARS: Final = 80
MAIN_ACTIONS: Final = ("ApplyToken", "QueryToken", "RevokeToken")

_BAD_REQUEST: Final = 400
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Minute:
    """What all instances counted in one minute that begins at ``at_ms`` (Unix ms)."""

    at_ms: int
    answered: int = 0
    refused: int = 0
    unavailable: int = 0
    applied: int = 0
    revoked: int = 0

    @property
    def turned_away(self) -> int:
        """How many requests got no token, for whichever reason."""
        return self.refused + self.unavailable


@dataclass(frozen=True, slots=True)
class Hour:
    """The last sixty minutes, the oldest first, the last one under way."""

    minutes: tuple[Minute, ...]

    @property
    def total(self) -> Minute:
        """All of it together."""
        names = [counted.value for counted in Counted]
        sums = {name: sum(getattr(minute, name) for minute in self.minutes) for name in names}
        return Minute(self.minutes[0].at_ms, **sums)


class Metrics:
    """What this instance counts, and what all did."""

    def __init__(self, book: CounterStore, use: QuotaUsageReader, clock: RedisClock) -> None:
        """Add to ``book``; ``use`` tells of the quotas; minutes are those of ``clock``."""
        self._book = book
        self._use = use
        self._clock = clock
        self._name = secrets.token_urlsafe(8)
        self._now: Counter[Counted] = Counter()
        self._minutes: dict[int, Counter[Counted]] = {}
        self._seen = CloudHealth()
        self._told = CloudHealth()
        self._number = 0
        self._batch: Batch | None = None

    def answered(self, status: int) -> None:
        """Count an answer to a request for a token, by its HTTP status."""
        if status < _BAD_REQUEST:
            self._now[Counted.ANSWERED] += 1
        else:
            self._now[Counted.REFUSED if status < _SERVER_ERROR else Counted.UNAVAILABLE] += 1

    def applied(self) -> None:
        """Count a token newly got from the cloud."""
        self._now[Counted.APPLIED] += 1

    def revoked(self) -> None:
        """Count a revocation that the cloud confirmed."""
        self._now[Counted.REVOKED] += 1

    def called(self, action: str, error: CloudError | None) -> None:
        """Note how an attempt to call the cloud ended."""
        now_ms = self._clock.now_ms()
        if error is None:
            self._seen = replace(self._seen, ok_at_ms=now_ms, failing_since_ms=0)
        else:
            since_ms = self._seen.failing_since_ms or now_ms
            code = error.code[:MAX_CODE_CHARS]
            self._seen = CloudHealth(self._seen.ok_at_ms, since_ms, now_ms, action, error.kind.value, code)

    async def add_regularly(self) -> None:
        """Add every couple of seconds what was counted, until cancelled; then once more."""
        away = False
        try:
            while True:
                await asyncio.sleep(ADD_EVERY_S)
                try:
                    await self.add()
                except Unavailable as error:
                    if not away:
                        log.warning("figures_not_added", cause=error.cause)
                    away = True
                else:
                    away = False
        finally:
            await self._add_last()

    async def add(self) -> None:
        """Add what was counted until now. What cannot be added is kept, for as long as it would be in Redis.

        Raises ``Unavailable``.
        """
        self._take()
        if self._batch:
            # Whether it was taken the last time is not known; what came since then goes with the next one.
            await self._send(self._batch)
        if self._minutes or self._seen != self._told:
            self._number += 1
            self._batch = Batch(self._number, self._minutes, self._seen)
            self._minutes = {}
            await self._send(self._batch)

    async def hour(self) -> Hour:
        """Return the figures of the last hour, of all instances. Raises ``Unavailable``."""
        last = self._clock.now_ms() // MINUTE_MS
        rows = await self._book.read_minutes(last - HOUR + 1, last)
        return Hour(
            tuple(
                Minute(minute * MINUTE_MS, **{counted.value: count for counted, count in row.items()})
                for minute, row in enumerate(rows, last - HOUR + 1)
            )
        )

    async def cloud(self) -> CloudHealth:
        """Return how the cloud was last seen, by whichever instance. Raises ``Unavailable``."""
        return await self._book.read_cloud_health()

    async def quotas(self) -> list[QuotaUsage]:
        """Return the use of the egress group's limit, of the main actions' and any in use. Raises ``Unavailable``."""
        uses = await self._use.read_usage()
        return [use for use in uses if use.action in {"", *MAIN_ACTIONS} or use.taken or use.waiting]

    async def _send(self, batch: Batch) -> None:
        await self._book.add_batch(self._name, batch)
        self._told = batch.health
        self._batch = None

    def _take(self) -> None:
        """Put what was counted since the last time to the minute it is now; let go of what is too old to be kept."""
        minute = self._clock.now_ms() // MINUTE_MS
        if self._now:
            self._minutes.setdefault(minute, Counter()).update(self._now)
            self._now.clear()
        oldest = minute - COUNTERS_KEPT_MS // MINUTE_MS
        self._minutes = {each: counts for each, counts in self._minutes.items() if each > oldest}

    async def _add_last(self) -> None:
        try:
            await self.add()
        except Unavailable as error:
            log.warning("figures_lost", cause=error.cause)
