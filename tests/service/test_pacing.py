from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.cloud.errors import ErrorKind
from app.cloud.quota import QuotaExhausted, QuotaUnreachable
from app.model.secrets import Secret
from app.service import pacing
from app.service.pacing import Pacing
from app.store.constants import PACE
from app.store.quota import SharedQuota
from app.store.store import Store
from tests import processes
from tests.waiting import until

QPS = {"ApplyToken": 500.0, "QueryToken": 100.0, "RevokeToken": 5.0, "SlowToken": 1.0}

Instance = Callable[[], Pacing]


def soon(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
async def instance(store: Store) -> AsyncIterator[Instance]:
    """A function that makes another instance on the same Redis."""
    async with AsyncExitStack() as stack:

        def make() -> Pacing:
            quota = Pacing(SharedQuota(store, qps=QPS, egress_qps=300, egress_group="all"))
            stack.push_async_callback(quota.close)
            return quota

        yield make


@pytest.fixture
def quota(instance: Instance) -> Pacing:
    """One instance."""
    return instance()


async def asked(store: Store) -> int:
    """Return how many scripts Redis has run."""
    return (await commands(store)).get("evalsha", 0)


async def commands(store: Store) -> dict[str, int]:
    """Return how often Redis has run each command since it was told to count anew."""
    lines = str(await store.requests.command("INFO", "commandstats"))
    return {name: int(calls) for name, calls in re.findall(r"cmdstat_(\S+):calls=(\d+)", lines)}


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel what a test leaves waiting."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def queue(quota: Pacing, action: str, count: int, *, within_s: float = 30) -> list[asyncio.Task[None]]:
    """Have so many wait."""
    return [asyncio.create_task(quota.permit(action, deadline=soon(within_s))) for _ in range(count)]


async def test_first_come_is_first_served(quota: Pacing) -> None:
    """Each line is served in order, also where some want two permits at once."""
    order: list[int] = []

    async def wait(number: int) -> None:
        await quota.permit("QueryToken", 1 + number % 2, deadline=soon())
        order.append(number)

    await asyncio.gather(*(wait(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_single_call_costs_one_question_and_an_idle_instance_none(quota: Pacing, store: Store) -> None:
    """Nobody waits, nothing is asked: neither before the first call nor after the last."""
    await quota.permit("ApplyToken", deadline=soon())
    await store.requests.command("CONFIG", "RESETSTAT")
    await quota.permit("ApplyToken", 2, deadline=soon())
    await asyncio.sleep(pacing.SPEAK_EVERY_S + 0.05)
    statistics = await commands(store)
    assert statistics.pop("evalsha") == 1
    inside = {"time", "lindex", "get", "lrange", "lpush", "pexpire", "set", "hgetall"}
    assert set(statistics) <= inside | {"config|resetstat", "info"}


async def test_a_long_line_asks_seldom(quota: Pacing, store: Store) -> None:
    """A hundred waiters need far fewer than a hundred questions."""
    before = await asked(store)
    await asyncio.gather(*queue(quota, "ApplyToken", 100))
    assert await asked(store) - before < 70


async def test_instances_share_one_pace(instance: Instance) -> None:
    """Three saturated instances use the limit up, none goes without, and the loss of one does not change the pace."""
    instances = [instance() for _ in range(3)]
    given: list[tuple[Pacing, float]] = []

    async def take(quota: Pacing) -> None:
        while True:
            await quota.permit("ApplyToken", deadline=soon())
            given.append((quota, time.monotonic()))

    began = time.monotonic()
    takers = [asyncio.create_task(take(each)) for each in instances for _ in range(20)]

    async def after(seconds: float) -> list[Pacing]:
        await asyncio.sleep(began + seconds - time.monotonic())
        return [quota for quota, at in given if began + seconds - 1 <= at < began + seconds]

    first = await after(1.1)
    shares = [first.count(each) for each in instances]
    assert 0.93 * 300 <= len(first) <= 1.02 * 300
    assert min(shares) >= 0.15 * len(first), shares
    await end(*takers[:20])  # killed: it says nothing to anybody
    second = await after(2.2)
    await end(*takers[20:])
    assert 0.93 * 300 <= len(second) <= 1.02 * 300
    assert instances[0] not in second[20:]


async def test_a_line_for_a_slow_api_does_not_hold_up_another(quota: Pacing) -> None:
    """Ten RevokeTokens wait, and an ApplyToken goes at once."""
    line = queue(quota, "RevokeToken", 10)
    await asyncio.sleep(0)
    started = time.monotonic()
    await quota.permit("ApplyToken", deadline=soon())
    assert time.monotonic() - started < 0.1
    assert sum(task.done() for task in line) <= 1
    await end(*line)


async def test_who_would_come_too_late_is_told_so_at_once(instance: Instance) -> None:
    """He is refused without waiting, and told when all that wait now, at any instance, will have been served."""
    one, other = instance(), instance()
    await one.permit("RevokeToken", deadline=soon())
    lines = [*queue(one, "RevokeToken", 10), *queue(other, "RevokeToken", 20)]
    await asyncio.sleep(pacing.SPEAK_EVERY_S + 0.05)  # the lines have heard of each other
    # Known to its own pacer, or asked for by a third that has no line yet.
    for quota in (one, instance()):
        started = time.monotonic()
        with pytest.raises(QuotaExhausted) as refusal:
            await quota.permit("RevokeToken", deadline=soon(0.5))
        assert time.monotonic() - started < 0.1
        assert refusal.value.kind is ErrorKind.THROTTLED
        assert refusal.value.retry_after_s == pytest.approx(30 / (5 * PACE), abs=0.6)
    await end(*lines)


async def test_a_short_line_is_not_refused_for_the_long_line_of_another(instance: Instance) -> None:
    """Lines are served side by side: who comes to an instance with little to do is served soon."""
    one, other = instance(), instance()
    line = queue(one, "QueryToken", 400)
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await other.permit("QueryToken", deadline=soon(1))
    assert time.monotonic() - started < 0.5
    await end(*line)


async def test_the_wait_ends_while_there_is_time_for_the_call(quota: Pacing) -> None:
    """A caller who gets no turn is refused well before his deadline, and leaves the line."""
    await quota.permit("SlowToken", deadline=soon())
    [task] = queue(quota, "SlowToken", 1)
    await asyncio.sleep(0.02)
    deadline = soon(0.3)
    with pytest.raises(QuotaExhausted):
        await quota.permit("SlowToken", deadline=deadline)
    assert asyncio.get_running_loop().time() < deadline
    await end(task)


async def test_a_cancelled_waiter_leaves_nothing_behind(quota: Pacing) -> None:
    """Those behind a cancelled waiter move up, and the line is as if it had never stood in it."""
    await quota.permit("RevokeToken", deadline=soon())
    line = queue(quota, "RevokeToken", 6)
    await asyncio.sleep(0.02)
    started = time.monotonic()
    await end(*line[:5])
    await line[5]
    assert time.monotonic() - started < 0.25


async def test_the_permit_of_one_who_left_goes_to_the_next(quota: Pacing, store: Store) -> None:
    """A permit that arrives for a cancelled waiter is used by another caller, who need not ask for one."""
    await quota.permit("ApplyToken", deadline=soon())
    before = await asked(store)
    [task] = queue(quota, "ApplyToken", 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # on its way to Redis
    await end(task)

    async def answered() -> bool:
        return await asked(store) == before + 1

    await until(answered, "the answer")
    await asyncio.sleep(0.01)
    await quota.permit("ApplyToken", deadline=soon())
    assert await asked(store) == before + 1


async def test_who_leaves_while_all_are_refused_is_not_counted_twice(quota: Pacing, store: Store) -> None:
    """A waiter cancelled in the moment in which Redis is lost leaves an idle line behind."""
    await quota.permit("RevokeToken", deadline=soon())
    tasks = queue(quota, "RevokeToken", 2)
    await asyncio.sleep(0.02)
    tasks[0].cancel()
    quota._lines["RevokeToken"]._refuse_all("gone")
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in results] == [asyncio.CancelledError, QuotaUnreachable]
    await asyncio.sleep(pacing.SPEAK_EVERY_S + 0.05)
    before = await asked(store)
    await asyncio.sleep(pacing.SPEAK_EVERY_S + 0.05)
    assert await asked(store) == before


async def test_a_line_that_is_too_long_is_known_without_asking(quota: Pacing, store: Store) -> None:
    """``refusal`` tells what ``permit`` would raise, and nothing of an idle line."""
    assert quota.refusal("RevokeToken", deadline=soon(0.1)) is None
    await quota.permit("RevokeToken", deadline=soon())
    assert quota.refusal("RevokeToken", deadline=soon(0.1)) is None
    line = queue(quota, "RevokeToken", 10)
    await asyncio.sleep(0.05)
    before = await asked(store)
    refusal = quota.refusal("RevokeToken", deadline=soon(1))
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(10 / (5 * PACE), abs=0.5)
    assert quota.refusal("RevokeToken", deadline=soon(10)) is None
    assert await asked(store) == before
    await end(*line)


async def test_a_permit_that_lay_too_long_is_void(quota: Pacing, store: Store) -> None:
    """An instance that was paused with an answer on the way asks again instead of calling late."""
    await quota.permit("ApplyToken", deadline=soon())
    before = await asked(store)
    [task] = queue(quota, "ApplyToken", 1)
    for _ in range(4):
        await asyncio.sleep(0)
    time.sleep(pacing.VALID_S + 0.01)  # noqa: ASYNC251 (the pause)
    await task
    assert await asked(store) == before + 2


async def test_a_closed_quota_refuses(quota: Pacing) -> None:
    """Closing ends every pacer, refuses all who wait, and whoever comes later."""
    await quota.permit("RevokeToken", deadline=soon())
    line = queue(quota, "RevokeToken", 3)
    await asyncio.sleep(0.02)
    await quota.close()
    results = await asyncio.gather(*line, return_exceptions=True)
    assert [type(each) for each in results] == [QuotaUnreachable] * 3
    with pytest.raises(QuotaUnreachable):
        await quota.permit("ApplyToken", deadline=soon())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pace ")]


async def test_without_redis_there_is_no_permit_and_with_it_there_is(tmp_path: Path) -> None:
    """Fail closed, come back alone: refused in less than a second, served again within a second of its return."""
    with processes.running_valkey(tmp_path) as url:
        store = Store(Secret(url))
        quota = Pacing(SharedQuota(store, qps=QPS, egress_qps=300, egress_group="all"))
        await quota.permit("ApplyToken", deadline=soon())
    started = time.monotonic()
    with pytest.raises(QuotaUnreachable) as refusal:
        await quota.permit("ApplyToken", deadline=soon())
    assert time.monotonic() - started < 1
    assert refusal.value.kind is ErrorKind.UNREACHABLE
    with processes.running_valkey(tmp_path):
        started = time.monotonic()
        await quota.permit("ApplyToken", deadline=soon())
        assert time.monotonic() - started < 1
        await quota.close()
        await store.close()
