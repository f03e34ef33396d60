from __future__ import annotations

import itertools

import pytest

from app.store.constants import CLOUD_HEALTH_KEPT_MS, COUNTERS_KEPT_MS
from app.store.counters import Batch, CloudHealth, Counted, CounterStore
from app.store.redis_keys import CLOUD_SEEN, batch_key, minute_key
from app.store.store import Store

NOBODY = CloudHealth()


@pytest.fixture
def metrics(store: Store) -> CounterStore:
    """The figures on that store."""
    return CounterStore(store)


def failed(at_ms: int, *, ok_at_ms: int = 0, since_ms: int = 0, code: str = "Timeout") -> CloudHealth:
    """Return what an instance saw fail."""
    return CloudHealth(ok_at_ms, since_ms or at_ms, at_ms, "ApplyToken", "unreachable", code)


async def test_what_instances_count_adds_up(metrics: CounterStore) -> None:
    """Each minute holds the sum of what every instance counted in it, and 0 of what nobody did."""
    await metrics.add_batch(
        "a", Batch(1, {100: {Counted.ANSWERED: 3, Counted.REFUSED: 1}, 101: {Counted.ANSWERED: 2}}, NOBODY)
    )
    await metrics.add_batch("b", Batch(1, {101: {Counted.ANSWERED: 5}}, NOBODY))
    before, first, second = await metrics.read_minutes(99, 101)
    assert not any(before.values())
    assert (first[Counted.ANSWERED], first[Counted.REFUSED], first[Counted.UNAVAILABLE]) == (3, 1, 0)
    assert second[Counted.ANSWERED] == 7


async def test_a_batch_that_is_sent_again_counts_once(metrics: CounterStore) -> None:
    """An instance whose answer was lost may send the same batch again; its next one counts."""
    batch = Batch(1, {100: {Counted.ANSWERED: 3}}, NOBODY)
    await metrics.add_batch("a", batch)
    await metrics.add_batch("a", batch)
    await metrics.add_batch("a", Batch(2, {100: {Counted.ANSWERED: 1}}, NOBODY))
    await metrics.add_batch("a", batch)
    [minute] = await metrics.read_minutes(100, 100)
    assert minute[Counted.ANSWERED] == 4


async def test_all_of_it_dies_by_itself(metrics: CounterStore, store: Store) -> None:
    """Minutes and batch numbers live for two hours, the cloud's health for a week."""
    await metrics.add_batch("a", Batch(1, {100: {Counted.ANSWERED: 3}}, CloudHealth(ok_at_ms=7)))
    for key, life_ms in (
        (minute_key(100), COUNTERS_KEPT_MS),
        (batch_key("a"), COUNTERS_KEPT_MS),
        (CLOUD_SEEN, CLOUD_HEALTH_KEPT_MS),
    ):
        assert life_ms - 10_000 < await store.requests.command("PTTL", key) <= life_ms


SIGHTS = (CloudHealth(ok_at_ms=10), failed(20, ok_at_ms=10), failed(35, ok_at_ms=5, since_ms=15, code="Throttling.Api"))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_last_sight_of_the_cloud_wins_in_whatever_order_they_come(
    metrics: CounterStore, order: tuple[int, ...]
) -> None:
    """The newest success and the newest failure are kept, and the earliest failure that no success came after."""
    for place in order:
        await metrics.add_batch(f"i{place}", Batch(1, {}, SIGHTS[place]))
    assert await metrics.read_cloud_health() == CloudHealth(10, 15, 35, "ApplyToken", "unreachable", "Throttling.Api")


async def test_a_success_ends_the_failing(metrics: CounterStore) -> None:
    """Once any instance's call succeeded, nothing fails any more; the last failure is still told."""
    await metrics.add_batch("a", Batch(1, {}, failed(20, ok_at_ms=10)))
    await metrics.add_batch("b", Batch(1, {}, CloudHealth(ok_at_ms=30)))
    assert await metrics.read_cloud_health() == CloudHealth(30, 0, 20, "ApplyToken", "unreachable", "Timeout")
    await metrics.add_batch("a", Batch(2, {}, failed(40, ok_at_ms=10, since_ms=20)))
    assert (await metrics.read_cloud_health()).failing_since_ms == 40


async def test_before_the_first_call_nothing_is_known(metrics: CounterStore) -> None:
    """A cloud that nobody called has neither answered nor failed."""
    await metrics.add_batch("a", Batch(1, {100: {Counted.REFUSED: 1}}, NOBODY))
    assert await metrics.read_cloud_health() == NOBODY
