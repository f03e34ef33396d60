from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from app.cloud.errors import CloudError, Kind
from app.cloud.quota import DEFAULT_QPS, PACE, Quota, QuotaExhausted


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def _timed(quota: Quota, action: str, name: int, log: list[tuple[int, float]]) -> None:
    await quota.permit(action, deadline=_in(10))
    log.append((name, time.monotonic()))


async def test_permits_come_in_the_order_asked_for_and_no_faster_than_the_pace() -> None:
    """First come, first served, evenly spaced at 98 % of the limit."""
    quota = Quota({"ApplyToken": 100})
    log: list[tuple[int, float]] = []
    await asyncio.gather(*(_timed(quota, "ApplyToken", name, log) for name in range(20)))
    assert [name for name, _ in log] == list(range(20))
    assert log[-1][1] - log[0][1] >= 19 / (PACE * 100) - 0.005


async def test_an_idle_api_gives_its_permit_at_once() -> None:
    """A line of RevokeTokens holds no ApplyToken back."""
    quota = Quota()
    line = [asyncio.create_task(quota.permit("RevokeToken", deadline=_in(30))) for _ in range(10)]
    await asyncio.sleep(0)
    started = time.monotonic()
    await quota.permit("ApplyToken", deadline=_in(1))
    assert time.monotonic() - started < 0.1
    assert sum(task.done() for task in line) <= 1
    for task in line:
        task.cancel()
    await asyncio.gather(*line, return_exceptions=True)


async def test_all_apis_together_keep_to_the_egress_limit() -> None:
    """The limit per IP holds over all APIs, however much each API itself would allow."""
    quota = Quota({"ApplyToken": 1000, "QueryToken": 1000}, egress_qps=100)
    log: list[tuple[int, float]] = []
    actions = ("ApplyToken", "QueryToken")
    await asyncio.gather(*(_timed(quota, actions[name % 2], name, log) for name in range(20)))
    times = [at for _, at in log]
    assert times[-1] - times[0] >= 19 / (PACE * 100) - 0.005
    assert sorted(times) == times
    assert {name % 2 for name, _ in log[:4]} == {0, 1}


async def test_who_would_come_too_late_is_told_so_at_once() -> None:
    """A turn after the deadline is refused without waiting, with the length of the line."""
    quota = Quota({"RevokeToken": 1})
    await quota.permit("RevokeToken", deadline=_in(1))
    waiting = [asyncio.create_task(quota.permit("RevokeToken", deadline=_in(30))) for _ in range(3)]
    await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(QuotaExhausted) as refusal:
        await quota.permit("RevokeToken", deadline=_in(2))
    assert time.monotonic() - started < 0.1
    assert 4 / PACE - 0.2 < refusal.value.retry_after_s <= 4 / PACE
    assert isinstance(refusal.value, CloudError)
    assert refusal.value.kind is Kind.THROTTLED
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    """Those behind a cancelled waiter move up, and the line is as if it had never stood in it."""
    quota = Quota({"QueryToken": 20})
    await quota.permit("QueryToken", deadline=_in(1))
    started = time.monotonic()
    log: list[tuple[int, float]] = []
    tasks = [asyncio.create_task(_timed(quota, "QueryToken", name, log)) for name in range(6)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [name for name, _ in log] == [5]
    assert 1 / (PACE * 20) - 0.005 <= log[0][1] - started < 2 / (PACE * 20)


async def test_no_second_holds_more_calls_than_the_limit() -> None:
    """With the guide's slowest limit, 5 a second, six calls never fall into one second, also after a pause."""
    spacing = 1 / (PACE * DEFAULT_QPS["RevokeToken"])
    assert 5 * spacing > 1
    quota = Quota()
    log: list[tuple[int, float]] = []
    await asyncio.gather(*(_timed(quota, "RevokeToken", name, log) for name in range(3)))
    assert all(later[1] - earlier[1] >= spacing - 0.005 for earlier, later in pairwise(log))
