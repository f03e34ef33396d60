from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.model.secrets import Secret
from app.service import retry_promises
from app.service.retry_promises import WITHOUT_REDIS_S, RetryPromises
from app.store.quota import QuotaSettings, RetryPromise, SharedQuota, full_pace
from app.store.store import Store
from tests import processes
from tests.waiting import connect_all

LIMITS = QuotaSettings({"ApplyToken": 1.0}, egress_qps=300, egress_group="all")
STEP_S = 0.93 / full_pace(1.0, LIMITS.jitter_s)
"""About 1 s."""

NEAR_S = 2.0
"""How late the machine may be."""


class CountingQuota(SharedQuota):
    """The shared quota, which keeps for how many permits it was asked each time."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, limits=LIMITS)
        self.asked: list[int] = []

    async def promise_retry(self, action: str, permits: int) -> RetryPromise:
        """Promise, and keep for how many."""
        self.asked.append(permits)
        return await super().promise_retry(action, permits)


class ScriptedQuota(CountingQuota):
    """A quota that promises what a test says."""

    promise = RetryPromise(0.0, 0.0)

    async def promise_retry(self, action: str, permits: int) -> RetryPromise:
        """Return the test's promise."""
        assert action == "ApplyToken"
        self.asked.append(permits)
        return self.promise


@pytest.fixture
def quota(store: Store) -> CountingQuota:
    """The quota of one instance."""
    return CountingQuota(store)


@pytest.fixture
def promises(quota: CountingQuota) -> RetryPromises:
    """The promises of that instance."""
    return RetryPromises(quota)


async def refuse(promises: RetryPromises, count: int, *, permits: int = 1, first: int = 0) -> list[float]:
    """Refuse so many devices in one turn of the loop; return in how many seconds each should come back."""
    asked = (promises.next_s(f"d{number}", permits) for number in range(first, first + count))
    return await asyncio.gather(*asked)


async def test_devices_that_are_refused_together_come_back_one_after_another(
    promises: RetryPromises, quota: CountingQuota
) -> None:
    """In the order of their refusals, as fast as there are permits for them, and Redis is asked once for all."""
    after_s = await refuse(promises, 50)
    assert quota.asked == [50]
    assert after_s == sorted(after_s)
    assert after_s[0] == pytest.approx(STEP_S, abs=NEAR_S)
    assert after_s[-1] - after_s[0] == pytest.approx(49 * STEP_S, abs=NEAR_S)


async def test_a_device_that_needs_two_permits_takes_twice_as_long(promises: RetryPromises) -> None:
    """Its token is two calls, so the next device comes back two steps later."""
    after_s = await refuse(promises, 20, permits=2)
    assert after_s[-1] == pytest.approx(40 * STEP_S, abs=NEAR_S)


async def test_all_instances_promise_from_one_clock(promises: RetryPromises, store: Store) -> None:
    """Whoever is refused later is promised a later instant, whichever instance refuses."""
    others = RetryPromises(CountingQuota(store))
    first_s, second_s = await refuse(promises, 30), await refuse(others, 30, first=30)
    third_s = await refuse(promises, 30, first=60)
    assert second_s[0] == pytest.approx(31 * STEP_S, abs=NEAR_S)
    assert third_s[-1] == pytest.approx(90 * STEP_S, abs=NEAR_S)
    assert first_s[-1] < second_s[0] < second_s[-1] < third_s[0]


async def test_a_device_that_does_not_wait_moves_no_promise(promises: RetryPromises, quota: CountingQuota) -> None:
    """However often it comes before its time, it is given the same instant again, and Redis is not asked."""
    await refuse(promises, 100, permits=2)
    for _ in range(1000):
        again_s = await promises.next_s("d50", 2)
    assert quota.asked == [200]
    assert again_s == pytest.approx(102 * STEP_S, abs=NEAR_S)
    assert await promises.next_s("another", 2) == pytest.approx(202 * STEP_S, abs=NEAR_S)


async def test_requests_of_one_device_at_one_time_take_one_promise(
    promises: RetryPromises, quota: CountingQuota
) -> None:
    """Fifty requests of a device, also while Redis is asked for the first, are given one instant."""
    first = [asyncio.create_task(promises.next_s("d1", 2)) for _ in range(25)]
    await asyncio.sleep(0)
    after_s = await asyncio.gather(*first, *(promises.next_s("d1", 2) for _ in range(25)))
    assert quota.asked == [2]
    assert max(after_s) - min(after_s) < NEAR_S


async def test_a_device_that_is_refused_again_at_its_time_is_promised_another(store: Store) -> None:
    """A promise that has passed is not repeated."""
    quota = ScriptedQuota(store)
    promises = RetryPromises(quota)
    assert await refuse(promises, 1) == [0]
    quota.promise = RetryPromise(7.0, 1.0)
    assert await refuse(promises, 1) == [pytest.approx(8.0, abs=NEAR_S)]
    assert await refuse(promises, 1) == [pytest.approx(8.0, abs=NEAR_S)]
    assert quota.asked == [1, 1]


async def test_there_is_no_cap(store: Store) -> None:
    """A queue of a day is promised as a day: an earlier time would be given in vain."""
    quota = ScriptedQuota(store)
    quota.promise = RetryPromise(86_400.0, 1.0)
    assert await refuse(RetryPromises(quota), 1) == [pytest.approx(86_401.0, abs=NEAR_S)]


async def test_of_many_devices_those_that_come_all_the_time_are_remembered(
    promises: RetryPromises, quota: CountingQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number is remembered, and whom it is needed for is not forgotten."""
    monkeypatch.setattr(retry_promises, "MAX_REMEMBERED", 10)
    for number in range(100):
        await promises.next_s("hasty", 1)
        await promises.next_s(f"d{number}", 1)
    assert sum(quota.asked) == 101
    await promises.next_s("d99", 1)
    await promises.next_s("d0", 1)
    assert sum(quota.asked) == 102


async def test_a_caller_that_is_cancelled_takes_no_answer_with_it(promises: RetryPromises) -> None:
    """The others of its turn, and its device's other requests, are given their time."""
    tasks = [asyncio.create_task(promises.next_s(name, 1)) for name in ("d1", "d1", "d2")]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [pytest.approx(STEP_S, abs=NEAR_S), pytest.approx(2 * STEP_S, abs=NEAR_S)]


@pytest.mark.parametrize("turns", range(3))
async def test_an_instance_that_stops_leaves_no_caller_without_an_answer(promises: RetryPromises, turns: int) -> None:
    """Nor a task that goes on."""
    waiting = asyncio.create_task(promises.next_s("d1", 1))
    for _ in range(turns):
        await asyncio.sleep(0)
    await promises.close()
    async with asyncio.timeout(5):
        assert 0 < await waiting <= STEP_S + NEAR_S
    await promises.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "promise"]


async def test_without_redis_the_time_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Redis hangs: nothing is promised, and the answer does not wait for it."""
    with processes.running_valkey(tmp_path) as url:
        store = Store(Secret(url))
        await connect_all(store)
        promises = RetryPromises(CountingQuota(store))
        await refuse(promises, 1)
    after_s = await refuse(promises, 3, first=1)
    assert all(0 < each_s <= WITHOUT_REDIS_S for each_s in after_s)
    await store.close()


class HangingQuota(CountingQuota):
    """The quota of an instance whose Redis does not answer."""

    async def promise_retry(self, action: str, permits: int) -> RetryPromise:
        """Never answer."""
        self.asked.append(permits)
        await asyncio.Event().wait()
        return await super().promise_retry(action, permits)


async def test_a_redis_that_hangs_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is sent in time, with the fixed time."""
    monkeypatch.setattr(retry_promises, "ASK_WITHIN_S", 0.01)
    async with asyncio.timeout(5):
        [after_s] = await refuse(RetryPromises(HangingQuota(store)), 1)
    assert 0 < after_s <= WITHOUT_REDIS_S


class BrokenQuota(CountingQuota):
    """A quota with a fault."""

    async def promise_retry(self, action: str, permits: int) -> RetryPromise:
        """Fail in a way that is not expected."""
        raise ValueError(action)


async def test_after_a_fault_the_time_is_fixed(store: Store) -> None:
    """No caller is told to come back at once."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    [after_s] = await refuse(RetryPromises(BrokenQuota(store)), 1)
    assert 0 < after_s <= WITHOUT_REDIS_S


async def test_an_instance_that_stops_while_redis_is_asked_gives_the_fixed_time(store: Store) -> None:
    """Its callers are not all told to come back at once."""
    promises = RetryPromises(HangingQuota(store))
    waiting = asyncio.create_task(promises.next_s("d1", 1))
    for _ in range(3):
        await asyncio.sleep(0)
    await promises.close()
    assert 0 < await waiting <= WITHOUT_REDIS_S
