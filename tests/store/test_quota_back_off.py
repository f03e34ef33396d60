"""Back-off: how Throttling shrinks an API's pace, and how it grows again."""

from __future__ import annotations

from collections import deque

import pytest

from app.store.quota import QuotaUsageReader, SharedQuota
from tests.store.quota_site import LIMITS, PACE, Site, most_in_a_window


async def share(site: Site, instance: SharedQuota, action: str = "QueryToken") -> float:
    """Return the share of the pace that is in force."""
    grant = await site.ask(instance, action, 1, ready=0)
    return grant.pace / grant.full_pace


async def throttle(site: Site, instance: SharedQuota, sent_s_ago: float = 0) -> None:
    """Report that a call was refused by Throttling whose permit was taken so long ago."""
    await site.report(instance, answered=True, throttled={"QueryToken": site.now_s() - sent_s_ago})


async def test_throttling_shrinks_the_pace_of_its_api_for_all_instances(site: Site) -> None:
    """By 30 %; other APIs keep theirs, and without any state the pace is full."""
    one, other = site.instance(), site.instance()
    assert await share(site, other) == 1
    await throttle(site, one)
    assert await share(site, other) == pytest.approx(0.7)
    assert await share(site, other, "ApplyToken") == 1
    await site.store.requests.command("DEL", "{q}:pace:QueryToken")
    assert await share(site, other) == 1


async def test_the_pace_shrinks_once_for_calls_of_one_window(site: Site) -> None:
    """Answers to calls that were sent before the last shrinking, or within a second after it, are ignored."""
    one, other = site.instance(), site.instance()
    await throttle(site, one)
    for _ in range(5):
        await throttle(site, other, sent_s_ago=0.2)
        site.pass_s(0.19)
    assert await share(site, one) == pytest.approx(0.7)
    site.pass_s(0.04)  # 0.99 s after the shrinking
    await throttle(site, other)
    assert await share(site, one) == pytest.approx(0.7)
    site.pass_s(2)
    await throttle(site, other, sent_s_ago=2.0)
    assert await share(site, one) > 0.7
    await throttle(site, other, sent_s_ago=1.99)
    assert await share(site, one) == pytest.approx(0.49)


async def test_a_report_that_is_sent_again_shrinks_nothing_more(site: Site) -> None:
    """The same call is one that was sent before the shrinking."""
    instance, sent_at = site.instance(), site.now_s()
    for _ in range(3):
        await site.report(instance, answered=True, throttled={"QueryToken": sent_at})
    assert await share(site, instance) == pytest.approx(0.7)


async def test_what_failed_is_the_pace_at_which_the_call_was_sent(site: Site) -> None:
    """An answer that took long does not speak of the pace that there is by then."""
    instance = site.instance()
    await throttle(site, instance)
    site.pass_s(4)
    assert await share(site, instance) > 0.9
    await throttle(site, instance, sent_s_ago=2.9)  # it was 0.7 * 2^0.1 then
    assert await share(site, instance) == pytest.approx(0.7 * 2**0.1 * 0.7, rel=1e-4)


async def test_the_pace_doubles_each_second_up_to_a_ceiling_and_then_grows_slowly(site: Site) -> None:
    """The ceiling is 90 % of the pace that failed; beyond it the pace grows by 0.2 % of the full one a second."""
    instance = site.instance()
    await throttle(site, instance)
    for _ in range(3):
        site.pass_s(1.001)
        await throttle(site, instance)
    # Four times less than the time before, but for the moment in which it had begun to grow.
    failed = await share(site, instance) / 0.7
    assert failed == pytest.approx(0.7**3, rel=0.01)
    grown = []
    for _ in range(12):
        site.pass_s(0.1)
        grown.append(await share(site, instance) / failed)
    assert grown[:10] == pytest.approx([0.7] * 10, rel=1e-3)  # the window whose answers are ignored
    assert grown[10:] == pytest.approx([0.7 * 2**0.1, 0.7 * 2**0.2], rel=1e-3)
    site.pass_s(0.3)  # 1.36 s after the shrinking it came to the ceiling
    at_ceiling = await share(site, instance)
    assert at_ceiling == pytest.approx(0.9 * failed, rel=0.01)
    site.pass_s(10)
    assert await share(site, instance) == pytest.approx(at_ceiling + 0.02, rel=1e-3)
    site.pass_s(600)
    assert await share(site, instance) == 1


async def test_the_pace_never_falls_below_a_floor_from_which_it_comes_back_in_seconds(site: Site) -> None:
    """However often it is throttled, 2 % are left. Calls refused at the least pace say nothing of a ceiling."""
    instance = site.instance()
    least = 1.0
    for _ in range(20):
        await throttle(site, instance)
        least = min(least, await share(site, instance))
        site.pass_s(1.001)
    assert least == pytest.approx(0.02)
    await throttle(site, instance)
    began = site.now_s()
    while await share(site, instance) < 0.9:
        site.pass_s(0.1)
    assert site.now_s() - began <= 7


@pytest.mark.parametrize("limit", [5, 100])
async def test_permits_follow_the_pace_that_is_in_force(site: Site, limit: int) -> None:
    """Neither pace nor log lets more through: the calls of the full pace leave room only as they count no longer."""
    instance = site.instance(QueryToken=limit)
    await site.saturate([(instance, "QueryToken")], 2)
    await throttle(site, instance)
    at_ms = site.store.clock.shift_ms
    await site.saturate([(instance, "QueryToken")], 1)
    while_shrunk = [each for each in site.given["QueryToken"] if at_ms <= each.at_ms < at_ms + 1000]
    assert 0.35 * limit <= len(while_shrunk) <= 0.7 * limit + 1
    await site.saturate([(instance, "QueryToken")], 10)
    later = [each for each in site.given["QueryToken"] if each.at_ms > at_ms + 3000]
    assert most_in_a_window(later, 1 / PACE) <= 0.93 * limit + 1
    assert len(later) >= 0.85 * limit * PACE * 8


async def test_half_the_limit_is_found_and_used(site: Site) -> None:
    """Where the cloud allows half of the configured limit: at most 40 are refused a minute, and 85 % of it are used.

    It counts sliding seconds, without refused calls, and answers within 50 ms.
    """
    instances, real = [site.instance(), site.instance()], 50
    accepted: deque[int] = deque()
    good, refused = 0, 0
    answers: deque[tuple[int, int]] = deque()
    began_ms = now_ms = site.store.clock.shift_ms
    while now_ms < began_ms + 60_000:
        grant = await site.ask(instances[now_ms % 2], "QueryToken", 1000)
        for _ in range(grant.permits):
            while accepted and accepted[0] <= now_ms - 1000:
                accepted.popleft()
            if len(accepted) < real:
                accepted.append(now_ms)
                good += 1
            else:
                refused += 1
                answers.append((now_ms + 50, grant.taken_at_us))
        now_ms += max(1, min(50, round(grant.again_in_s * 1000)))
        site.store.clock.shift_ms = now_ms
        while answers and answers[0][0] <= now_ms:
            taken_at_us = answers.popleft()[1]
            await site.report(instances[0], answered=True, throttled={"QueryToken": taken_at_us / 1_000_000})
    assert good >= 0.85 * real * 60
    assert refused <= 40


async def test_a_slow_pace_that_grows_again_is_not_held_up_by_what_it_was(site: Site) -> None:
    """The next permit is due by the pace that there is now: five a second have not to wait for 2 % of that."""
    instance = site.instance()
    for _ in range(20):
        await site.report(instance, answered=True, throttled={"RevokeToken": site.now_s()})
        await site.take(instance, "RevokeToken")
        site.pass_s(1.001)
    site.pass_s(7)
    began = site.now_s()
    await site.saturate([(instance, "RevokeToken")], 4)
    permits = [each for each in site.given["RevokeToken"] if each.at_ms >= began * 1000]
    assert len(permits) >= 0.8 * 5 * 4


async def test_a_clock_that_is_set_back_leaves_the_pace_full(site: Site) -> None:
    """What was shrunk in a time to come is forgotten; missing state means full pace."""
    instance = site.instance()
    await throttle(site, instance)
    site.pass_s(-3600)
    assert await share(site, instance) == 1
    await throttle(site, instance)
    assert await share(site, instance) == pytest.approx(0.7)


async def test_usage_shows_the_pace_in_force(site: Site) -> None:
    """Beside the full one, for the API that is throttled."""
    use = QuotaUsageReader(site.store, limits=LIMITS)
    await throttle(site, site.instance())
    seen = {each.action: each for each in await use.read_usage()}
    assert seen["QueryToken"].pace == pytest.approx(0.7 * seen["QueryToken"].full_pace)
    assert seen["ApplyToken"].pace == seen["ApplyToken"].full_pace
    assert seen[""].pace == seen[""].full_pace


async def test_back_off_dies_when_the_pace_is_full_again(site: Site) -> None:
    """Its key has a TTL until then: 1 s, then doubling up to 90 %, then 0.2 % a second."""
    await throttle(site, site.instance())
    assert await site.ttl_s("{q}:pace:QueryToken") == pytest.approx(1 + 0.36 + 50, abs=0.1)
