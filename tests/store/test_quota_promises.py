"""Promises: when callers that are refused are told to come back."""

from __future__ import annotations

import pytest

from app.store.quota import SharedQuota
from tests.store.quota_site import LEASE_S, PACE, Site
from tests.store.test_quota_breaker import open_for_group, pass_to_probe, probe

STEP_S = 0.93 / (100 * PACE)
STOPPED_STEP_S = 0.97 / (100 * PACE)
"""While a breaker is open."""
"""Of an API with a limit of 100 a second, that nothing else slows down."""


async def shrink(site: Site, instance: SharedQuota) -> None:
    """Throttle QueryToken once."""
    await site.report(instance, answered=True, throttled={"QueryToken": site.now_s()})


async def test_each_caller_has_an_instant_of_its_own(site: Site) -> None:
    """One after the other at all instances together, 0.93 of a permit's time apart; a block is like as many calls."""
    one, other = site.instance(), site.instance()
    first = await one.promise_retry("QueryToken", 1)
    assert first == pytest.approx((0, STEP_S))
    assert await other.promise_retry("QueryToken", 1000) == pytest.approx((STEP_S, STEP_S), abs=1e-5)
    assert await one.promise_retry("QueryToken", 1) == pytest.approx((1001 * STEP_S, STEP_S), abs=1e-5)
    site.pass_s(5)
    assert (await one.promise_retry("QueryToken", 1)).start_in_s == pytest.approx(1002 * STEP_S - 5, abs=1e-5)
    assert (await one.promise_retry("RevokeToken", 1)).start_in_s == 0


async def test_what_was_promised_and_is_past_is_forgotten(site: Site) -> None:
    """The next callers are promised the time from now on."""
    instance = site.instance()
    await instance.promise_retry("QueryToken", 100)
    site.pass_s(1)
    assert (await instance.promise_retry("QueryToken", 1)).start_in_s == 0


async def test_no_promise_is_for_a_time_before_those_who_wait_are_served(site: Site) -> None:
    """The queues of all instances, at the pace of the API, or of the group where that takes longer."""
    one, other = site.instance(), site.instance()
    await site.take_all(one, "QueryToken")
    await site.ask(one, "QueryToken", 150, ready=0)
    await site.ask(other, "QueryToken", 50, ready=0)
    assert (await other.promise_retry("QueryToken", 1)).start_in_s == pytest.approx(200 / (100 * PACE), abs=1e-5)
    await site.ask(other, "ApplyToken", 1000, ready=0)
    assert (await site.instance().promise_retry("QueryToken", 1)).start_in_s == pytest.approx(
        1200 / (300 * PACE), abs=1e-5
    )
    elsewhere = site.instance(group="elsewhere")
    site.pass_s(4.3)
    await site.ask(one, "ApplyToken", 1000, ready=0)
    assert (await elsewhere.promise_retry("QueryToken", 1)).start_in_s < 0.1


async def test_promises_are_spread_over_what_other_apis_leave(site: Site) -> None:
    """Where the egress limit is the narrower one, the permits of other APIs that count now are subtracted from it."""
    instance = site.instance(egress_qps=120)
    await site.saturate([(instance, "RevokeToken"), (instance, "SendMessage")], 0.5)
    used = len(site.given["SendMessage"]) + len(site.given["RevokeToken"])
    assert used == pytest.approx(60, abs=6)
    step_s = (await instance.promise_retry("QueryToken", 1)).step_s
    assert step_s == pytest.approx(0.93 / (PACE * (120 - used)), rel=1e-3)
    await site.saturate([(instance, "SendMessage")], 2)
    assert (await instance.promise_retry("QueryToken", 1)).step_s == pytest.approx(0.93 / (PACE * 12), rel=1e-3)


async def test_promises_follow_back_off(site: Site) -> None:
    """The pace is the one that it grows to within seconds: 90 % of what failed, and later what it has grown to."""
    instance = site.instance()
    await shrink(site, instance)
    assert (await instance.promise_retry("QueryToken", 1)).step_s == pytest.approx(STEP_S / 0.9)
    site.pass_s(26.36)
    assert (await instance.promise_retry("QueryToken", 1)).step_s == pytest.approx(STEP_S / 0.95, rel=1e-3)


async def test_while_the_breaker_is_open_promises_begin_at_the_probe(site: Site) -> None:
    """And are spread from there, after all that wait; while a probe is under way they begin when its lease ends.

    They are a little further apart: those that never come back have gone by then.
    """
    step_s = STOPPED_STEP_S
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    closed_s = (await site.ask(one, "QueryToken", 10, ready=0)).closed_for_s
    start_s = closed_s + 10 / (100 * PACE)
    assert await other.promise_retry("QueryToken", 500) == pytest.approx((start_s, step_s), abs=1e-5)
    assert (await one.promise_retry("QueryToken", 1)).start_in_s == pytest.approx(start_s + 500 * step_s, abs=1e-4)
    await pass_to_probe(site, one)
    assert await probe(site, one)
    later = await one.promise_retry("ApplyToken", 1)
    assert later.start_in_s == pytest.approx(LEASE_S + 8 / (300 * PACE), abs=1e-3)


async def test_an_open_breaker_moves_no_promise_of_those_that_are_not_behind_it(site: Site) -> None:
    """Neither a group's for another group, nor an instance's for the others of its group."""
    one, other, elsewhere = site.instance(), site.instance(), site.instance(group="elsewhere")
    await open_for_group(site, one, other)
    closed_s = (await site.ask(one, "QueryToken", ready=0)).closed_for_s
    assert (await one.promise_retry("QueryToken", 500)).start_in_s >= closed_s
    assert (await elsewhere.promise_retry("QueryToken", 1)).start_in_s < 0.1
    assert (await elsewhere.promise_retry("QueryToken", 1)).start_in_s < 0.1 + STEP_S


async def test_the_breaker_of_one_instance_moves_no_promise_of_the_others(site: Site) -> None:
    """Its own callers are spread from its next probe on."""
    alone, one = site.instance(), site.instance()
    for failing_s in (0.1, 1.1, 2.1):
        await site.report(one, answered=True)
        status = await site.report(alone, failing_s=failing_s)
        site.pass_s(1)
    assert status.scope == "instance"
    closed_s = status.closed_for_s - 1
    assert await alone.promise_retry("QueryToken", 500) == pytest.approx((closed_s, STOPPED_STEP_S), abs=1e-3)
    next_s = (await alone.promise_retry("QueryToken", 1)).start_in_s
    assert next_s == pytest.approx(closed_s + 500 * STOPPED_STEP_S, abs=1e-3)
    assert (await one.promise_retry("QueryToken", 1)).start_in_s == 0


async def test_after_an_outage_promises_begin_behind_those_that_were_given_in_it(site: Site) -> None:
    """Those of the group; each of them also moves the ones of other groups, by one permit's time."""
    one, other, elsewhere = site.instance(), site.instance(), site.instance(group="elsewhere")
    await open_for_group(site, one, other)
    promised = await one.promise_retry("QueryToken", 2000)
    until_s = site.now_s() + promised.start_in_s + 2000 * STOPPED_STEP_S
    await pass_to_probe(site, one)
    assert await probe(site, one)
    assert (await site.report(one, answered=True, probe="answered")).change == "closed"
    for number in range(3):
        start_s = (await other.promise_retry("QueryToken", 1)).start_in_s
        assert start_s == pytest.approx(until_s - site.now_s() + number * STEP_S, abs=1e-3)
    assert (await elsewhere.promise_retry("QueryToken", 1)).start_in_s < 0.1 + 3 * STEP_S


@pytest.mark.parametrize("limit", [0.5, 5, 1e9])
async def test_promises_are_for_any_limit(site: Site, limit: float) -> None:
    """Also for one that is far beyond what can be called."""
    instance = site.instance(QueryToken=limit, egress_qps=1e9)
    assert (await instance.promise_retry("QueryToken", 10)).step_s == pytest.approx(0.93 / (limit * PACE))
    assert (await instance.promise_retry("QueryToken", 1)).start_in_s == pytest.approx(9.3 / (limit * PACE), abs=1e-5)


async def test_a_clock_that_is_set_back_moves_no_promise_away(site: Site) -> None:
    """What was promised for in ten seconds is so after the jump."""
    instance = site.instance()
    await instance.promise_retry("QueryToken", 1000)
    site.pass_s(-3600)
    assert (await instance.promise_retry("QueryToken", 1)).start_in_s == pytest.approx(1000 * STEP_S, abs=0.001)


async def test_promises_die_when_they_are_past(site: Site) -> None:
    """Their key has a TTL until the last one."""
    await site.instance().promise_retry("QueryToken", 1000)
    assert await site.keys() == {"{q}:promise:QueryToken"}
    assert await site.ttl_s("{q}:promise:QueryToken") == pytest.approx(1000 * STEP_S, abs=0.01)
