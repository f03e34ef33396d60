from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store.constants import FAILURES_KEPT_MS
from app.store.failures import MAX_BY_ADDRESS, MAX_BY_CLIENT, FailureCounter, FailureCounts
from app.store.store import Store

HERE = FailureCounter("address", "192.0.2.1")


@pytest.fixture
def counts(store: Store) -> FailureCounts:
    """Counts on that store."""
    return FailureCounts(store)


def client(number: int) -> FailureCounter:
    """Return the counter of a client ID."""
    return FailureCounter("client ID", f"GID_plant@@@d{number}")


async def fail(counts: FailureCounts, *counters: FailureCounter, times: int = 1) -> list[list[int]]:
    """Fail so many times, one after the other; returns for how many ms the counters were full each time."""
    return [(await counts.count_failures([counters]))[0] for _ in range(times)]


async def test_a_client_id_fails_ten_times_a_minute(counts: FailureCounts, store: Store) -> None:
    """The next failure waits until the first of those is a minute old, wherever the failures come from."""
    assert await fail(counts, client(1), times=MAX_BY_CLIENT) == [[0]] * MAX_BY_CLIENT
    [[full_ms]] = await fail(counts, client(1))
    assert FAILURES_KEPT_MS - 5000 < full_ms <= FAILURES_KEPT_MS
    store.clock.shift_ms += full_ms - 20
    [[left_ms]] = await fail(counts, client(1))
    assert 0 < left_ms <= 20
    store.clock.shift_ms += 20
    assert await fail(counts, client(1)) == [[0]]


async def test_an_address_fails_a_hundred_times_a_minute(counts: FailureCounts) -> None:
    """Whatever client IDs are tried from it: an attacker gains nothing by trying another one each time."""
    for number in range(MAX_BY_ADDRESS):
        assert await fail(counts, client(number), HERE) == [[0, 0]]
    [[of_client, of_address]] = await fail(counts, client(MAX_BY_ADDRESS), HERE)
    assert of_client == 0 < of_address <= FAILURES_KEPT_MS
    assert await fail(counts, client(MAX_BY_ADDRESS), FailureCounter("address", "192.0.2.2")) == [[0, 0]]


async def test_what_is_beyond_a_limit_is_not_counted(counts: FailureCounts, store: Store) -> None:
    """An attacker at one client ID does not prolong its wait or use up an address, and causes no write to disk."""
    await fail(counts, client(1), HERE, times=MAX_BY_CLIENT)
    before = await store.requests.command("INFO", "persistence")
    waits = await fail(counts, client(1), HERE, times=50)
    assert all(0 < of_client <= FAILURES_KEPT_MS and of_address == 0 for of_client, of_address in waits)
    assert waits[-1][0] <= waits[0][0]
    after = await store.requests.command("INFO", "persistence")
    assert changes(before) == changes(after)
    assert await store.requests.command("LLEN", HERE.key) == MAX_BY_CLIENT


def changes(info: str) -> str:
    """Return how much was written since the last snapshot, as Redis says."""
    return next(line for line in info.splitlines() if line.startswith("rdb_changes_since_last_save"))


async def test_failures_that_come_all_at_once_count_all(counts: FailureCounts, store: Store) -> None:
    """Many at once, in one round trip or in many, are no more than the limit."""
    in_one = await counts.count_failures([[client(1)]] * 30)
    assert in_one.count([0]) == MAX_BY_CLIENT
    others = FailureCounts(store)
    in_many = await asyncio.gather(*(each.count_failures([[client(2)]]) for each in (counts, others) * 15))
    assert in_many.count([[0]]) == MAX_BY_CLIENT


async def test_a_count_takes_little_and_is_forgotten(counts: FailureCounts, store: Store) -> None:
    """A flood under random names fills nothing: each is a digest that lives for a minute."""
    for name in ("x" * 8000, "\ud800", "GID_plant@@@\x00\n", "{s1}"):
        await fail(counts, FailureCounter("client ID", name), FailureCounter("address", name))
    keys = await store.requests.command("KEYS", "{tries}:*")
    assert len(keys) == 8
    assert max(map(len, keys)) < 50
    for key in keys:
        assert 0 < await store.requests.command("PTTL", key) <= FAILURES_KEPT_MS


async def test_a_clock_set_back_keeps_no_count_full(counts: FailureCounts, store: Store) -> None:
    """However far: the wait is never longer than a minute, and over after it."""
    store.clock.shift_ms = 86_400_000
    await fail(counts, client(1), times=MAX_BY_CLIENT)
    store.clock.shift_ms = 0
    [[full_ms]] = await fail(counts, client(1))
    assert full_ms == FAILURES_KEPT_MS


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15_000)), max_size=80))
async def test_no_minute_has_more_than_the_limit(
    counts: FailureCounts, store: Store, tried: list[tuple[int, int]]
) -> None:
    """Whenever failures come: no client ID has more of them counted in any minute."""
    await store.requests.command("FLUSHALL")
    counted: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number, later_ms in tried:
        store.clock.shift_ms += later_ms
        if await fail(counts, client(number), HERE) == [[0, 0]]:
            counted[number].append(store.clock.now_ms())
    for times in counted.values():
        for first, last in zip(times, times[MAX_BY_CLIENT:], strict=False):
            assert last - first >= FAILURES_KEPT_MS - 50
