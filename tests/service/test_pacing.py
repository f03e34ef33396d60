from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.cloud.errors import ErrorKind
from app.cloud.quota import CloudClosed, QuotaExhausted, QuotaUnreachable
from app.model.calls import CallRank
from app.model.secrets import Secret
from app.service.pacing import Pacing
from app.store.quota import VALID_S, CallReport, PermitGrant, PermitQuestion, QuotaSettings, SharedQuota, full_pace
from app.store.store import Store
from app.tasks import all_of
from tests import processes
from tests.waiting import connect_all, until

QPS = {"ApplyToken": 500.0, "QueryToken": 100.0, "RevokeToken": 5.0, "SlowToken": 1.0}
LIMITS = QuotaSettings(QPS, egress_qps=300, egress_group="all")
PACE = full_pace(1, LIMITS.jitter_s)

Instance = Callable[[], Pacing]


def soon(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
async def instance(store: Store) -> AsyncIterator[Instance]:
    """A function that makes another instance on the same Redis."""
    async with AsyncExitStack() as stack:

        def make() -> Pacing:
            quota = Pacing(SharedQuota(store, limits=LIMITS))
            stack.push_async_callback(quota.close)
            return quota

        yield make


@pytest.fixture
def quota(instance: Instance) -> Pacing:
    """One instance."""
    return instance()


async def permit(quota: Pacing, action: str, count: int = 1, *, deadline: float) -> None:
    """Take permits as a call does that is over at once."""
    async with quota.place(action, count, rank=CallRank.FIRST, deadline=deadline) as place:
        await place.permit()


async def asked(store: Store) -> int:
    """Return how many scripts Redis has run."""
    return (await commands(store)).get("evalsha", 0)


async def commands(store: Store) -> dict[str, int]:
    """Return how often Redis has run each command since the count was reset."""
    lines = str(await store.requests.command("INFO", "commandstats"))
    return {name: int(calls) for name, calls in re.findall(r"cmdstat_(\S+):calls=(\d+)", lines)}


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel what a test leaves waiting."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def queue(quota: Pacing, action: str, count: int, *, within_s: float = 30) -> list[asyncio.Task[None]]:
    """Have so many wait."""
    return [asyncio.create_task(permit(quota, action, deadline=soon(within_s))) for _ in range(count)]


async def test_first_come_is_first_served(quota: Pacing) -> None:
    """A queue is served in order, also where some want two permits at once."""
    order: list[int] = []

    async def wait(number: int) -> None:
        await permit(quota, "QueryToken", 1 + number % 2, deadline=soon())
        order.append(number)

    await asyncio.gather(*(wait(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_single_call_costs_one_question(quota: Pacing, store: Store) -> None:
    """One script, and in it no command that a call does not need."""
    await permit(quota, "ApplyToken", deadline=soon())
    await store.requests.command("CONFIG", "RESETSTAT")
    await permit(quota, "ApplyToken", 2, deadline=soon())
    statistics = await commands(store)
    assert statistics.pop("evalsha") == 1
    inside = {"time", "lindex", "get", "lrange", "lpush", "pexpire", "set", "hgetall", "mget", "hvals"}
    assert set(statistics) <= inside | {"config|resetstat", "info"}


async def test_a_long_queue_asks_seldom(quota: Pacing, store: Store) -> None:
    """A hundred waiters need far fewer than a hundred questions."""
    before = await asked(store)
    await asyncio.gather(*queue(quota, "ApplyToken", 100))
    assert await asked(store) - before < 70


async def test_instances_share_one_pace(instance: Instance) -> None:
    """Three saturated instances never exceed the limit together, none goes without, and one that dies is not missed."""
    instances = [instance() for _ in range(3)]
    granted: list[tuple[Pacing, float]] = []

    async def take(quota: Pacing) -> None:
        while True:
            await permit(quota, "QueryToken", deadline=soon(60))
            granted.append((quota, time.monotonic()))

    takers = [asyncio.create_task(take(each)) for each in instances for _ in range(20)]

    async def more(count: int) -> list[Pacing]:
        begin = len(granted)

        async def enough() -> bool:
            return len(granted) >= begin + count

        await until(enough, "permits")
        some = granted[begin : begin + count]
        # A burst of 50 ms comes on top, and as much again where the first permits were taken before they were used.
        assert count <= 100 * (some[-1][1] - some[0][1] + VALID_S + 0.05) + 1
        return [quota for quota, _ in some]

    shares = [(await more(150)).count(each) for each in instances]
    assert min(shares) >= 15, shares
    await end(*takers[:20])  # killed: it says nothing to anybody
    await more(20)
    assert instances[0] not in await more(50)
    await end(*takers[20:])


async def test_a_queue_for_a_slow_api_does_not_hold_up_another(quota: Pacing) -> None:
    """Ten RevokeTokens wait, and fifty ApplyTokens go meanwhile."""
    waiting = queue(quota, "RevokeToken", 10)
    await asyncio.gather(*queue(quota, "ApplyToken", 50))
    assert not all(task.done() for task in waiting)
    await end(*waiting)


async def test_a_caller_that_would_come_too_late_is_refused_without_waiting(instance: Instance) -> None:
    """The refusal says when all that wait, at any instance, will be served, whether its instance has a queue or not."""
    one, other = instance(), instance()
    waiting = [*queue(one, "SlowToken", 10), *queue(other, "SlowToken", 20)]

    async def known() -> bool:
        refusal = one.refusal("SlowToken", deadline=soon(1))
        return refusal is not None and refusal.retry_after_s > 20 / PACE

    await until(known, "what the other instance waits for")
    for quota in (one, instance()):
        with pytest.raises(QuotaExhausted) as refusal:
            await permit(quota, "SlowToken", deadline=soon(2))
        assert refusal.value.kind is ErrorKind.THROTTLED
        assert 20 / PACE < refusal.value.retry_after_s < 35 / PACE
    await end(*waiting)


async def test_a_short_queue_is_served_beside_the_long_queue_of_another(instance: Instance) -> None:
    """A caller at an instance with little to do neither waits for the end of another's queue nor is refused for it."""
    one, other = instance(), instance()
    waiting = queue(one, "QueryToken", 400)

    async def is_long() -> bool:
        return one.refusal("QueryToken", deadline=soon(1)) is not None

    await until(is_long, "a long queue")
    await permit(other, "QueryToken", deadline=soon(2))
    assert not all(task.done() for task in waiting)
    await end(*waiting)


class Silent(SharedQuota):
    """The shared quota of an instance whose Redis does not answer."""

    async def take_permits(self, *_: Any, **__: Any) -> PermitGrant:
        """Never answer."""
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_wait_ends_before_its_deadline(store: Store) -> None:
    """A caller that gets no answer is refused while there is time to say so."""
    quota = Pacing(Silent(store, limits=LIMITS))
    with pytest.raises(QuotaExhausted):
        await permit(quota, "SlowToken", deadline=soon(0.1))
    await quota.close()


async def test_a_caller_that_joins_in_ignorance_is_refused_by_the_first_answer(quota: Pacing) -> None:
    """An idle instance knows nothing of the others; when it has asked, the caller does not wait in vain."""
    await permit(quota, "SlowToken", deadline=soon())
    with pytest.raises(QuotaExhausted):
        await permit(quota, "SlowToken", deadline=soon(0.5))


async def test_a_cancelled_waiter_makes_room(quota: Pacing) -> None:
    """Those behind it move up: all that wait before them would take a minute."""
    waiting = queue(quota, "SlowToken", 60)
    last = asyncio.create_task(permit(quota, "SlowToken", deadline=soon(100)))
    await asyncio.sleep(0)
    await end(*waiting)
    async with asyncio.timeout(10):
        await last


class PausedOnce(SharedQuota):
    """The shared quota of an instance that is paused between its first answer and the use of it."""

    takes = 0

    async def take_permits(self, *arguments: Any, **options: Any) -> PermitGrant:
        """Take, and let time pass."""
        grant = await super().take_permits(*arguments, **options)
        self.takes += 1
        if self.takes == 1:
            time.sleep(VALID_S + 0.01)  # noqa: ASYNC251 (the pause)
        return grant


async def test_a_permit_that_lay_too_long_is_void(store: Store) -> None:
    """An instance that was paused with an answer on the way asks again instead of calling late."""
    shared = PausedOnce(store, limits=LIMITS)
    quota = Pacing(shared)
    await permit(quota, "ApplyToken", deadline=soon())
    assert shared.takes == 2
    await quota.close()


async def test_the_better_rank_goes_first_over_all_instances(instance: Instance) -> None:
    """Operators' revocations pass the renewals that wait, at their own instance and at another."""
    one, other = instance(), instance()
    order: list[CallRank] = []

    async def wait(quota: Pacing, rank: CallRank) -> None:
        async with quota.place("RevokeToken", rank=rank, deadline=soon(30)) as place:
            await place.permit()
            order.append(rank)

    await permit(one, "RevokeToken", deadline=soon())
    waiting = [asyncio.create_task(wait(quota, CallRank.RENEWAL)) for quota in (one, other) for _ in range(3)]
    for quota in (one, other):
        await until_ready(quota, "RevokeToken")
    served = len(order)
    waiting += [asyncio.create_task(wait(one, CallRank.OPERATOR)) for _ in range(3)]
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)
    # A permit for a renewal may have been on its way at each instance.
    assert order[served : served + 5].count(CallRank.OPERATOR) == 3


async def test_renewals_hold_up_no_better_caller_of_their_instance(instance: Instance) -> None:
    """They get no permits while new devices wait at another instance; a new device at their own is served all the same.

    It waits for as long as the new devices of the other instance.
    """
    one, other = instance(), instance()

    async def renew() -> None:
        async with one.place("SlowToken", rank=CallRank.RENEWAL, deadline=soon(1000)) as place:
            await place.permit()

    waiting = queue(other, "SlowToken", 40, within_s=1000)
    await until_ready(other, "SlowToken")
    waiting += [asyncio.create_task(renew()) for _ in range(20)]
    await until_ready(one, "SlowToken")
    async with asyncio.timeout(10):
        await permit(one, "SlowToken", deadline=soon(1000))
    assert sum(task.done() for task in waiting[40:]) <= 1  # a permit may have been left when they came
    await end(*waiting)


async def until_ready(quota: Pacing, action: str) -> None:
    """Wait until a caller wants its permits."""

    async def ready() -> bool:
        return quota._pacer(action).queue.has_ready

    await until(ready, "a caller that is connected")


async def test_callers_without_a_connection_are_reported(instance: Instance, store: Store) -> None:
    """The other instances know how many wait, though no permit is asked for them yet."""
    connecting = [asyncio.create_task(connect_only(instance(), "SlowToken")) for _ in range(2)]
    question = PermitQuestion(0, ready=0, least=1, batch_s=0, valid_s=VALID_S, rank=CallRank.FIRST)
    watching = SharedQuota(store, limits=LIMITS)

    async def known() -> bool:
        return (await watching.take_permits("SlowToken", question)).queues == (8, 8)

    await until(known, "what waits at the other instances")
    await end(*connecting)


async def connect_only(quota: Pacing, action: str) -> None:
    """Have eight callers wait, of whom some have a place and never connect."""

    async def wait() -> None:
        async with quota.place(action, rank=CallRank.FIRST, deadline=soon(60)):
            await asyncio.Event().wait()

    await all_of(wait() for _ in range(8))


LOST = CallReport(answered=False, failed=True, failing_s=2.5, throttled={}, probe="", reason="CannotConnect")
ANSWERED = CallReport(answered=True, failed=False, failing_s=0, throttled={}, probe="answered", reason="")
"""What instances report: one whose calls have been lost for 2.5 s, and one whose probe was answered."""


async def test_while_the_breaker_is_open_one_caller_waits_for_the_probe(store: Store) -> None:
    """The others are refused at once; when its probe was answered all are served again."""
    shared = SharedQuota(store, limits=LIMITS)
    quota = Pacing(shared)
    assert (await shared.report_calls(LOST)).change == "opened"
    candidate, *others = (asyncio.create_task(probe(quota)) for _ in range(6))
    refusals = await asyncio.gather(*others, return_exceptions=True)
    assert [type(each) for each in refusals] == [CloudClosed] * 5
    assert not candidate.done()
    with pytest.raises(CloudClosed) as refusal:
        await probe(quota)
    assert 1 <= refusal.value.retry_after_s <= 2.4
    store.clock.shift_ms += 3_000  # the probe is due
    assert await candidate
    assert (await shared.report_calls(ANSWERED)).change == "closed"
    assert [await probe(quota) for _ in range(3)] == [False] * 3
    await quota.close()


async def probe(quota: Pacing) -> bool:
    """Take a permit; return whether it is for a probe."""
    async with quota.place("ApplyToken", rank=CallRank.FIRST, deadline=soon(60)) as place:
        return (await place.permit()).is_probe


async def test_what_is_known_of_the_cloud_refuses_callers_before_redis_is_asked(store: Store) -> None:
    """Where no queue has asked, the instance's own reports say for how long the cloud is left alone."""
    quota = Pacing(SharedQuota(store, limits=LIMITS), closed_for_s=lambda: 5.0)
    before = await asked(store)
    with pytest.raises(CloudClosed):
        await permit(quota, "ApplyToken", deadline=soon(5))
    refusal = quota.refusal("ApplyToken", deadline=soon(5))
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(5.0, abs=0.1)
    assert await asked(store) == before
    await quota.close()


async def test_what_is_known_of_the_cloud_lets_callers_come_again(store: Store) -> None:
    """The breaker was closed by another instance's probe, while nothing waited here: all are served at once."""
    shared, reported_at = SharedQuota(store, limits=LIMITS), [0.0]
    quota = Pacing(shared, reported_at=lambda: reported_at[0])
    await shared.report_calls(LOST)
    refusals = await asyncio.gather(*queue(quota, "ApplyToken", 2, within_s=3), return_exceptions=True)
    assert [type(each) for each in refusals] == [CloudClosed] * 2
    await SharedQuota(store, limits=LIMITS).report_calls(ANSWERED)
    assert quota.refusal("ApplyToken", deadline=soon(3))
    reported_at[0] = soon(0)
    await asyncio.gather(*queue(quota, "ApplyToken", 3))
    await quota.close()


async def test_a_closed_quota_refuses(quota: Pacing) -> None:
    """Closing ends every pacer, refuses all that wait and all that come later."""
    await permit(quota, "SlowToken", deadline=soon())
    waiting = queue(quota, "SlowToken", 3)
    await asyncio.sleep(0)
    await quota.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in results] == [QuotaUnreachable] * 3
    with pytest.raises(QuotaUnreachable):
        await permit(quota, "ApplyToken", deadline=soon())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pace ")]


async def test_without_redis_there_is_no_permit_and_with_it_there_is(tmp_path: Path) -> None:
    """Calls are refused while Redis is away, not made on a guess; when it is back they are served by themselves."""
    with processes.running_valkey(tmp_path) as url:
        store = Store(Secret(url))
        await connect_all(store)
        quota = Pacing(SharedQuota(store, limits=LIMITS))
        await permit(quota, "ApplyToken", deadline=soon())
    with pytest.raises(QuotaUnreachable) as refusal:
        await permit(quota, "ApplyToken", deadline=soon(30))
    assert refusal.value.kind is ErrorKind.UNREACHABLE
    with processes.running_valkey(tmp_path):
        await connect_all(store)
        await permit(quota, "ApplyToken", deadline=soon(30))
        await quota.close()
        await store.close()
