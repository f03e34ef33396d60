from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store.attempts import FREE_BY_ADDRESS, FREE_BY_NAME, FREE_FROM_ONE_ADDRESS, Attempts
from app.store.constants import ATTEMPTS_KEPT_MS
from app.store.store import Store

HERE = "192.0.2.1"


@pytest.fixture
def attempts(store: Store) -> Attempts:
    """Counts on that store."""
    return Attempts(store)


async def waits(attempts: Attempts, store: Store, name: str, address: str, times: int) -> list[int]:
    """Attempt again and again, each time as soon as that is allowed; return how long that took, in whole seconds."""
    waited = []
    for _ in range(times):
        early_ms = await attempts.count_attempt(name, address)
        waited.append(-(-early_ms // 1000))
        if early_ms:
            store.clock.shift_ms += early_ms
            assert await attempts.count_attempt(name, address) == 0
    return waited


async def test_attempts_by_name_become_slower(attempts: Attempts, store: Store) -> None:
    """Five are free; then each costs twice the wait of the one before, up to a minute."""
    by_name = await waits(attempts, store, "ann", "", 14)
    assert by_name == [0] * 5 + [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_attempts_from_an_address_become_slower(attempts: Attempts, store: Store) -> None:
    """Twenty are free, whatever names are tried; then the wait grows up to a quarter of an hour."""
    waited = [(await waits(attempts, store, f"name{number}", HERE, 1))[0] for number in range(33)]
    assert waited == [0] * 20 + [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_what_comes_too_early_is_not_counted_and_told_the_truth(attempts: Attempts, store: Store) -> None:
    """However often it is tried too early: the wait only shrinks with time, and then one attempt is let in."""
    await waits(attempts, store, "ann", HERE, FREE_FROM_ONE_ADDRESS + 3)
    early = [await attempts.count_attempt("ann", HERE) for _ in range(50)]
    assert all(7000 < wait_ms <= 8000 for wait_ms in early)
    store.clock.shift_ms += 5000
    assert 0 < await attempts.count_attempt("ann", HERE) <= 3000
    store.clock.shift_ms += 3000
    assert await attempts.count_attempt("ann", HERE) == 0
    assert 15_000 < await attempts.count_attempt("ann", HERE) <= 16_000
    # Of all these, the address counts those that were let in alone.
    assert await store.requests.command("HGET", await the_key(store, "a"), "count") == str(FREE_FROM_ONE_ADDRESS + 4)


async def the_key(store: Store, kind: str) -> str:
    """Return the one key of the counts by name or by address."""
    [key] = await store.requests.command("KEYS", f"{{tries}}:{kind}:*")
    return str(key)


async def test_guesses_that_come_all_at_once_count_all(attempts: Attempts) -> None:
    """Many at once are no more than the free ones: each is counted before anything is looked at."""
    early = await asyncio.gather(*(attempts.count_attempt("bob", HERE) for _ in range(100)))
    assert early.count(0) == FREE_FROM_ONE_ADDRESS
    early = await asyncio.gather(*(attempts.count_attempt("ann", f"192.0.2.{number}") for number in range(2, 152)))
    assert early.count(0) == FREE_BY_NAME
    early = await asyncio.gather(*(attempts.count_attempt(f"name{number}", "198.51.100.1") for number in range(100)))
    assert early.count(0) == FREE_BY_ADDRESS


async def test_being_right_clears_the_name_and_takes_its_own_attempt_back(attempts: Attempts, store: Store) -> None:
    """Whoever has one password cannot clear the address by it and go on guessing at others'."""
    for number in range(FREE_BY_ADDRESS - 1):
        assert await attempts.count_attempt(f"name{number}", HERE) == 0
    for _ in range(3):
        assert await attempts.count_attempt("ann", HERE) == 0
        await attempts.forgive_attempts("ann", HERE)
    assert await attempts.count_attempt("bob", HERE) == 0
    assert await attempts.count_attempt("bob", HERE) > 0
    for _ in range(FREE_FROM_ONE_ADDRESS):
        assert await attempts.count_attempt("ann", "") == 0
    assert await attempts.count_attempt("ann", "") > 0
    await attempts.forgive_attempts("ann", "")
    assert await attempts.count_attempt("ann", "") == 0


async def test_who_guesses_from_elsewhere_keeps_nobody_out(attempts: Attempts, store: Store) -> None:
    """An hour of guesses from some networks, as fast as is allowed, leaves the name's owner their own free ones."""
    for network in range(8):
        await waits(attempts, store, "ann", f"2001:db8:{network}::1", 9)
    assert await waits(attempts, store, "ann", HERE, FREE_FROM_ONE_ADDRESS) == [0] * FREE_FROM_ONE_ADDRESS


async def test_counts_are_forgotten(attempts: Attempts, store: Store) -> None:
    """An hour after the last attempt, and no key lives longer: names that nobody has cannot fill Redis."""
    await waits(attempts, store, "ann", HERE, FREE_FROM_ONE_ADDRESS + 3)
    for key in await store.requests.command("KEYS", "{tries}:*"):
        assert 0 < await store.requests.command("PTTL", key) <= ATTEMPTS_KEPT_MS
    store.clock.shift_ms += ATTEMPTS_KEPT_MS
    assert [await attempts.count_attempt("ann", HERE) for _ in range(FREE_FROM_ONE_ADDRESS)] == [
        0
    ] * FREE_FROM_ONE_ADDRESS
    assert await attempts.count_attempt("ann", HERE) > 0


async def test_a_clock_set_back_locks_nobody_out(attempts: Attempts, store: Store) -> None:
    """The wait is never longer than the delay that is due."""
    store.clock.shift_ms = 86_400_000
    await waits(attempts, store, "ann", HERE, FREE_FROM_ONE_ADDRESS + 2)
    store.clock.shift_ms = 0
    assert 0 < await attempts.count_attempt("ann", HERE) <= 4000


async def test_a_name_is_kept_as_a_digest(attempts: Attempts, store: Store) -> None:
    """What was typed for a name may be a password, of any length, and no text at all."""
    for name in ("hunter2hunter2", "x" * 100_000, "", "\ud800", "\x00\n<b>"):
        assert await attempts.count_attempt(name, HERE) == 0
    keys = await store.requests.command("KEYS", "{tries}:*")
    assert len(keys) == 5 * 2 + 1
    assert max(map(len, keys)) < 60
    assert "hunter2" not in str(keys)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.integers(0, 70_000)), max_size=40))
async def test_no_pattern_of_attempts_gains_on_waiting(
    attempts: Attempts, store: Store, tried: list[tuple[str, int]]
) -> None:
    """Whenever attempts come: between two that are let in, beyond the free ones, lies the delay that is due."""
    await store.requests.command("FLUSHALL")
    let_in: dict[str, list[int]] = {}
    for name, later_ms in tried:
        store.clock.shift_ms += later_ms
        if await attempts.count_attempt(name, "") == 0:
            let_in.setdefault(name, []).append(store.clock.now_ms())
    for times in let_in.values():
        for place in range(FREE_FROM_ONE_ADDRESS, len(times)):
            due_ms = min(60_000, 1000 * 2 ** (place - FREE_FROM_ONE_ADDRESS))
            assert times[place] - times[place - 1] >= due_ms - 50
