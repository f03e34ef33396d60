from __future__ import annotations

import pytest

from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import CallOutcome
from app.errors import Unavailable
from app.service.metrics import HOUR_MINUTES, MAX_CODE_CHARS, Metrics
from app.store.constants import COUNTERS_KEPT_MS
from app.store.counters import MINUTE_MS, Batch, CloudHealth, CounterStore
from app.store.quota import QuotaSettings, QuotaUsageReader
from app.store.store import Store

QPS = {"ApplyToken": 500.0, "QueryToken": 100.0, "RevokeToken": 5.0, "SendMessage": 1000.0}
LIMITS = QuotaSettings(QPS, egress_qps=300, egress_group="all")


class Book(CounterStore):
    """A book that can be away, or whose answers can be lost; it says how often it was written to."""

    away = False
    deaf = False
    written = 0

    async def add_batch(self, instance: str, batch: Batch) -> None:
        """Add, unless away."""
        if self.away:
            raise Unavailable("away")
        self.written += 1
        await super().add_batch(instance, batch)
        if self.deaf:
            raise Unavailable("the answer was lost")


@pytest.fixture
def book(store: Store) -> Book:
    """A book on that store."""
    return Book(store)


def counting(store: Store, book: CounterStore) -> Metrics:
    """Return what another instance counts with."""
    return Metrics(book, QuotaUsageReader(store, limits=LIMITS), store.clock)


@pytest.fixture
def metrics(store: Store, book: Book) -> Metrics:
    """What an instance counts with."""
    return counting(store, book)


@pytest.fixture(autouse=True)
def _from_a_minutes_beginning(store: Store) -> None:
    """Begin with a minute, so that no test is overtaken by the next one."""
    store.clock.shift_ms = MINUTE_MS - store.clock.now_ms() % MINUTE_MS


async def test_figures_of_all_instances_lie_in_their_minutes(store: Store, book: Book, metrics: Metrics) -> None:
    """The hour has sixty minutes, each with what all instances counted; what is older has gone."""
    other = counting(store, book)
    metrics.answered(200)
    await metrics.add_counts()
    store.clock.shift_ms += 59 * MINUTE_MS
    for status in (200, 200, 401, 429, 500, 503):
        other.answered(status)
    other.applied()
    metrics.revoked()
    await metrics.add_counts()
    await other.add_counts()
    hour = await metrics.last_hour()
    assert len(hour.minutes) == HOUR_MINUTES
    assert (hour.minutes[0].answered, hour.minutes[0].turned_away) == (1, 0)
    last = hour.minutes[-1]
    assert (last.answered, last.refused, last.unavailable, last.turned_away) == (2, 2, 2, 4)
    assert (last.applied, last.revoked) == (1, 1)
    assert last.at_ms == store.clock.now_ms() // MINUTE_MS * MINUTE_MS
    assert hour.total.answered == 3
    store.clock.shift_ms += MINUTE_MS
    assert (await other.last_hour()).total.answered == 2


async def test_what_redis_cannot_take_is_added_later_to_its_minute(store: Store, book: Book, metrics: Metrics) -> None:
    """While Redis is away counts are kept, and lie afterwards in the minutes in which they were counted."""
    book.away = True
    for _ in range(3):
        metrics.answered(503)
        with pytest.raises(Unavailable):
            await metrics.add_counts()
        store.clock.shift_ms += MINUTE_MS
    book.away = False
    await metrics.add_counts()
    assert [minute.unavailable for minute in (await metrics.last_hour()).minutes[-5:]] == [0, 1, 1, 1, 0]


async def test_a_lost_answer_counts_nothing_twice(book: Book, metrics: Metrics) -> None:
    """What was added although the answer got lost is not added again."""
    book.deaf = True
    metrics.answered(200)
    with pytest.raises(Unavailable):
        await metrics.add_counts()
    metrics.answered(200)
    book.deaf = False
    await metrics.add_counts()
    assert (await metrics.last_hour()).total.answered == 2


async def test_what_is_kept_has_a_bound(store: Store, book: Book, metrics: Metrics) -> None:
    """However long Redis is away, no more is kept than it would keep."""
    book.away = True
    for _ in range(COUNTERS_KEPT_MS // MINUTE_MS + 30):
        metrics.answered(503)
        with pytest.raises(Unavailable):
            await metrics.add_counts()
        store.clock.shift_ms += MINUTE_MS
    assert len(metrics._minutes) <= COUNTERS_KEPT_MS // MINUTE_MS


async def test_an_idle_instance_writes_nothing(book: Book, metrics: Metrics) -> None:
    """Without anything new Redis is left alone."""
    metrics.called(CallOutcome("ApplyToken", None, None))
    await metrics.add_counts()
    await metrics.add_counts()
    assert book.written == 1


async def test_the_cloud_is_seen_by_all(store: Store, book: Book, metrics: Metrics) -> None:
    """One instance tells what another saw: what failed, how, when, and since when everything fails."""
    other = counting(store, book)
    metrics.called(CallOutcome("QueryToken", None, None))
    answered_ms = store.clock.now_ms()
    store.clock.shift_ms += 5_000
    metrics.called(CallOutcome("ApplyToken", CloudError(ErrorKind.THROTTLED, "Throttling.Api"), None))
    store.clock.shift_ms += 5_000
    metrics.called(CallOutcome("RevokeToken", CloudError(ErrorKind.UNREACHABLE, "T" * 500), None))
    await metrics.add_counts()
    seen = await other.cloud_health()
    assert abs(seen.ok_at_ms - answered_ms) < 1000
    assert abs(seen.failing_since_ms - answered_ms - 5_000) < 1000
    assert abs(seen.failed_at_ms - answered_ms - 10_000) < 1000
    assert (seen.action, seen.kind, seen.code) == ("RevokeToken", "unreachable", "T" * MAX_CODE_CHARS)
    other.called(CallOutcome("QueryToken", None, None))
    await other.add_counts()
    assert (await metrics.cloud_health()).failing_since_ms == 0


async def test_before_the_first_call_the_cloud_was_not_seen(metrics: Metrics) -> None:
    """A new set-up knows nothing of the cloud, and no request."""
    assert await metrics.cloud_health() == CloudHealth()
    assert not any((minute.answered, minute.turned_away) != (0, 0) for minute in (await metrics.last_hour()).minutes)


async def test_quotas_that_nobody_uses_are_left_out(store: Store, metrics: Metrics) -> None:
    """The egress group's limit and those of the three actions of tokens are always told, others when in use."""
    assert [use.action for use in await metrics.quota_usage()] == ["", "ApplyToken", "QueryToken", "RevokeToken"]
    await store.requests.command("LPUSH", "{q}:a:SendMessage", f"{store.clock.now_ms() * 1000 + 900_000} 1")
    assert [use.action for use in await metrics.quota_usage()][-1] == "SendMessage"
