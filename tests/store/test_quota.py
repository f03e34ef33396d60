"""Permits: the limits, the pace, the queues of several instances, and what happens to Redis's server and clock."""

from __future__ import annotations

import asyncio

import pytest

from app.model.calls import CallRank
from app.store.quota import VALID_S, PermitGrant, PermitQuestion, QuotaUsageReader, full_pace
from app.store.redis_keys import QUOTA_SERVER
from app.store.store import Store
from tests.store.quota_site import LIMITS, PACE, QPS, Site, most_at_the_cloud, most_in_a_window

WINDOW_S = 1 / PACE
"""How long a permit counts."""

PATIENCE_S = 10


@pytest.mark.parametrize(
    ("limit", "seconds", "instances"), [(5, 20, 1), (5, 20, 3), (100, 6, 1), (100, 6, 3), (300, 4, 2)]
)
async def test_a_limit_is_used_and_kept_in_every_second(site: Site, limit: int, seconds: int, instances: int) -> None:
    """With demand at least 95 % of its permits are given, and in no second does the cloud see more calls than it."""
    asked = [site.instance(QueryToken=limit, egress_qps=1000) for _ in range(instances)]
    took_s = await site.saturate([(each, "QueryToken") for each in asked], seconds)
    given = site.given["QueryToken"]
    assert most_in_a_window(given, WINDOW_S) <= limit
    assert most_at_the_cloud(given, LIMITS.jitter_s) <= limit
    assert len(given) >= 0.95 * full_pace(limit, LIMITS.jitter_s) * took_s
    assert min(site.shares.values()) >= 0.1 * sum(site.shares.values())


@pytest.mark.parametrize("jitter_s", [0, 0.1, 1])
async def test_a_limit_holds_for_instances_that_use_permits_later_or_are_set_otherwise(
    site: Site, jitter_s: float
) -> None:
    """However long each instance states that its permits are valid; and of two values of jitter the longer holds."""
    askers = [(site.instance(jitter_s=each), "QueryToken") for each in (jitter_s, jitter_s / 2, 0)]
    took_s = await site.saturate(askers, 6, valid_s=(0.02, 0.05, 0.2))
    assert most_at_the_cloud(site.given["QueryToken"], jitter_s) <= 100
    assert len(site.given["QueryToken"]) >= 0.95 * 100 / (1 + jitter_s + 0.2 + 0.001) * took_s


async def test_all_apis_together_keep_to_the_egress_limit(site: Site) -> None:
    """At least 95 % of the address's permits are given and in no second more, and a slow API has its share as well."""
    instances = [site.instance() for _ in range(3)]
    askers = [(each, action) for each in instances for action in ("ApplyToken", "SendMessage")]
    took_s = await site.saturate([*askers, (instances[0], "RevokeToken")], 3)
    together = [each for given in site.given.values() for each in given]
    assert most_in_a_window(together, WINDOW_S) <= 300
    assert len(together) >= 0.95 * 300 * PACE * took_s
    assert len(site.given["RevokeToken"]) >= 0.6 * 5 * took_s
    assert min(len(site.given["ApplyToken"]), len(site.given["SendMessage"])) >= 0.3 * 300 * took_s


async def test_each_egress_group_has_a_limit_of_its_own(site: Site) -> None:
    """Two addresses together make more calls than one may."""
    instances = [site.instance(group=name) for name in ("here", "there")]
    took_s = await site.saturate([(each, "SendMessage") for each in instances], 2)
    assert len(site.given["SendMessage"]) >= 0.95 * 600 * PACE * took_s


async def test_a_queue_that_waits_holds_nothing(site: Site) -> None:
    """A refused RevokeToken takes nothing of the address's share, and an ApplyToken beside it is given at once."""
    instance = site.instance(egress_qps=20)
    assert await site.take(instance, "RevokeToken") == 1
    for _ in range(30):
        assert await site.take(instance, "RevokeToken", 10) == 0
    assert await site.store.requests.command("LLEN", "{q}:e:all") == 1
    site.pass_s(0.06)
    assert await site.take(instance, "ApplyToken") == 1


async def test_a_burst_is_short(site: Site) -> None:
    """After idle time there are at most the permits of 50 ms, in small batches."""
    instance = site.instance()
    batches = []
    while permits := await site.take(instance, "ApplyToken", 1000):
        batches.append(permits)
    assert max(batches) == 3
    assert 0.045 * 300 <= sum(batches) <= 1 + 0.05 * 300


async def test_only_what_is_ready_is_taken(site: Site) -> None:
    """A queue of which nothing is ready takes nothing, and the others learn how long it is."""
    preparing, other = site.instance(), site.instance()
    grant = await site.ask(preparing, "ApplyToken", 30, ready=0)
    assert (grant.permits, grant.closed_for_s, grant.is_probe) == (0, 0, False)
    assert (await site.ask(other, "ApplyToken")).queues == (30,)
    assert (await site.ask(preparing, "ApplyToken", 30, ready=2)).permits == 2


async def test_two_at_once_are_given_together_or_not_at_all(site: Site) -> None:
    """Even where the pace brings one in 200 ms; and the limit holds, so of five a second two pairs can be had."""
    instance = site.instance()
    began = site.now_s()
    while site.now_s() < began + 10:
        permits = await site.take(instance, "RevokeToken", 2, least=2)
        assert permits in {0, 2}
        site.pass_s(0.01)
    assert most_in_a_window(site.given["RevokeToken"], 1) <= 5
    assert len(site.given["RevokeToken"]) >= 0.95 * 4 * PACE * 10


async def test_no_odd_one_is_given_to_callers_of_two_at_once(site: Site) -> None:
    """The pace brings three in the time between two questions, and the third would be used for nothing."""
    instance = site.instance()
    assert await site.take(instance, "ApplyToken", 10) == 3
    assert await site.take(instance, "ApplyToken", 10, least=2) == 2


@pytest.mark.parametrize("limit", [0.01, 0.3, 0.5, 1, 1.6, 2.5, 3, 7, 19])
async def test_two_at_once_can_always_be_had(site: Site, limit: float) -> None:
    """Also where that is more than a second's worth: first at once, then after twice the time that one takes."""
    instance = site.instance(RevokeToken=limit)
    assert await site.take(instance, "RevokeToken", 2, least=2) == 2
    refused = await site.ask(instance, "RevokeToken", 2, least=2)
    assert refused.permits == 0
    assert 0 < refused.again_in_s <= max(1, 2 / limit) / PACE + 1e-3
    site.pass_s(refused.again_in_s + 0.001)
    assert await site.take(instance, "RevokeToken", 2, least=2) == 2


@pytest.mark.parametrize(("limit", "in_a_second", "in_ten"), [(0.5, 1, 5), (2.5, 2, 19)])
async def test_a_limit_may_be_a_fraction(site: Site, limit: float, in_a_second: int, in_ten: int) -> None:
    """In a second there are as many whole calls as it has, and below one a second a call counts for so much longer."""
    instance = site.instance(RevokeToken=limit)
    await site.saturate([(instance, "RevokeToken")], 40)
    given = site.given["RevokeToken"]
    assert most_in_a_window(given, 1) == in_a_second
    assert most_in_a_window(given, 1 / min(1, limit)) <= max(1, limit)
    assert len([each for each in given if each.at_ms < given[0].at_ms + 10_000]) == pytest.approx(in_ten, abs=1)


async def test_it_says_truly_when_to_ask_again(site: Site) -> None:
    """Just before that instant there is nothing, from then on there is."""
    instance = site.instance()
    await site.take_all(instance, "RevokeToken")
    again_in_s = (await site.ask(instance, "RevokeToken")).again_in_s
    assert 0.1 < again_in_s < 0.22
    site.pass_s(again_in_s - 0.002)
    assert await site.take(instance, "RevokeToken") == 0
    site.pass_s(0.003)
    assert await site.take(instance, "RevokeToken") == 1


async def test_permits_say_when_they_were_taken_and_at_which_pace(site: Site) -> None:
    """By Redis's clock; the paces are those of the limits, and of one instance there is one."""
    grant = await site.ask(site.instance(), "QueryToken")
    assert (grant.permits, grant.taken_at_us) == (1, site.store.clock.shift_ms * 1000)
    assert (grant.pace, grant.full_pace) == pytest.approx((100 * PACE, 100 * PACE))
    assert grant.group_pace == pytest.approx(300 * PACE)
    assert grant.instances == 1
    slow = await site.ask(site.instance(), "QueryToken", valid_s=0.2)
    assert slow.full_pace == pytest.approx(100 / (1 + 0.03 + 0.2 + 0.001))


async def test_limits_that_differ_do_no_harm(site: Site) -> None:
    """While a new limit is rolled out, the lower of the two holds where both wait, and no instance is shut out."""
    old, new = site.instance(QueryToken=50), site.instance(QueryToken=200)
    took_s = await site.saturate([(old, "QueryToken"), (new, "QueryToken")], 3)
    assert most_in_a_window(site.given["QueryToken"], WINDOW_S) <= 50
    assert len(site.given["QueryToken"]) >= 0.9 * 50 * PACE * took_s
    assert min(site.shares[old], site.shares[new]) >= 0.2 * 50 * took_s
    assert await site.take(new, "QueryToken") == 0
    site.pass_s(1.06)
    await site.saturate([(new, "QueryToken")], 1)
    assert 150 < most_in_a_window(site.given["QueryToken"], WINDOW_S) <= 200


async def test_the_first_ranks_go_first(site: Site) -> None:
    """A renewal gets only what those leave that are ready at other instances and of a better rank."""
    first, renewal, ready = site.instance(), site.instance(), 4
    await site.take_all(first, "QueryToken")
    await site.ask(first, "QueryToken", ready, rank=CallRank.FIRST)
    for waited_ms in range(0, 45, 5):
        site.pass_s(0.005 if waited_ms else 0)
        assert (await site.ask(renewal, "QueryToken", 10, rank=CallRank.RENEWAL)).permits == 0
    assert (await site.ask(first, "QueryToken", ready, rank=CallRank.FIRST)).permits > 0
    # A better rank, or the same, does not wait for it.
    await site.ask(renewal, "QueryToken", 10, rank=CallRank.RENEWAL)
    site.pass_s(0.02)
    assert (await site.ask(first, "QueryToken", 2, rank=CallRank.OPERATOR)).permits > 0


async def test_renewals_are_served_with_what_better_ranks_leave(site: Site) -> None:
    """A queue of first tokens that cannot use the pace does not hold up renewals, and neither does one that is gone."""
    first, renewal = site.instance(), site.instance()
    began = site.now_s()
    served = {CallRank.FIRST: 0, CallRank.RENEWAL: 0}
    while site.now_s() < began + 4:
        site.pass_s(0.01)
        if round(site.now_s() * 100) % 2 == 0 and site.now_s() < began + 2:
            served[CallRank.FIRST] += (await site.ask(first, "QueryToken", 1, rank=CallRank.FIRST)).permits
        served[CallRank.RENEWAL] += (await site.ask(renewal, "QueryToken", 50, rank=CallRank.RENEWAL)).permits
    assert served[CallRank.FIRST] >= 0.9 * 2 * 50
    assert sum(served.values()) >= 0.85 * 4 * 100 * PACE


async def test_an_operator_s_revokes_take_no_more_of_the_egress_than_they_can(site: Site) -> None:
    """They are few a second, and applications get all the rest of an egress limit that is short."""
    operators, devices = [site.instance(egress_qps=20) for _ in range(3)], site.instance(egress_qps=20)
    began, applied, revoked = site.now_s(), 0, 0
    while site.now_s() < began + 5:
        site.pass_s(0.01)
        for each in operators:
            revoked += (await site.ask(each, "RevokeToken", 20, rank=CallRank.OPERATOR)).permits
        applied += (await site.ask(devices, "ApplyToken", 50, rank=CallRank.FIRST)).permits
    assert revoked >= 0.9 * 5 * 5 * PACE
    assert applied + revoked >= 0.9 * 20 * 5 * PACE


async def test_a_clock_that_is_set_back_stops_calls_for_a_second_and_no_longer(site: Site) -> None:
    """After a jump by an hour none goes for one window, for some may just have gone; a small step is made up."""
    instance = site.instance()
    await site.saturate([(instance, "QueryToken")], 0.5)
    site.pass_s(-3600)
    assert await site.take(instance, "QueryToken") == 0
    site.pass_s(WINDOW_S - 0.01)
    assert await site.take(instance, "QueryToken") == 0
    site.pass_s(0.02)
    assert await site.take(instance, "QueryToken") == 1
    await site.saturate([(instance, "QueryToken")], 1.5)
    site.pass_s(-0.5)
    began = site.now_s()
    while not await site.take(instance, "QueryToken"):
        site.pass_s(0.01)
    assert site.now_s() - began < 0.5 + WINDOW_S


async def test_a_clock_that_jumps_ahead_stops_nothing(site: Site) -> None:
    """What was due is past, and the limit holds from then on."""
    instance = site.instance()
    await site.saturate([(instance, "QueryToken")], 0.5)
    site.pass_s(3600)
    site.given.clear()
    took_s = await site.saturate([(instance, "QueryToken")], 2)
    assert most_in_a_window(site.given["QueryToken"], WINDOW_S) <= 100
    assert len(site.given["QueryToken"]) >= 0.95 * 100 * PACE * took_s


@pytest.mark.parametrize("stored", ["another 0", None])
async def test_after_a_change_of_the_redis_server_no_permit_is_given_for_one_window(
    site: Site, stored: str | None
) -> None:
    """A replica that was promoted may lack the permits that were logged last, and so may any server at first."""
    instance = site.instance()
    assert await site.take(instance, "QueryToken") == 1
    await site.store.requests.command(*(("SET", QUOTA_SERVER, stored) if stored else ("DEL", QUOTA_SERVER)))
    refused = await site.ask(instance, "QueryToken")
    assert refused.permits == 0
    assert WINDOW_S < refused.again_in_s < 1.4
    for other in ("QueryToken", "ApplyToken"):
        site.pass_s(0.5)
        assert await site.take(site.instance(), other) == 0
    site.pass_s(refused.again_in_s - 1)
    assert await site.take(instance, "QueryToken") == 1
    assert await site.store.requests.command("TTL", QUOTA_SERVER) == -1


async def test_queues_are_known_to_the_others_for_a_second(site: Site) -> None:
    """An instance learns how long the others' queues are, and forgets one that is not reported any more."""
    first, second, third = site.instance(), site.instance(), site.instance(group="elsewhere")
    while await site.take(first, "QueryToken", 7):
        pass  # six are left
    await site.take(third, "QueryToken", 20)
    await site.take(second, "ApplyToken", 6)
    seen = await site.ask(second, "QueryToken", 5)
    assert sorted(seen.queues) == [6, 20]
    assert sorted(seen.group_queues) == [3, 6]
    assert seen.backlog_s(5) == pytest.approx(seen.again_in_s + 31 / (PACE * 100))
    # Served side by side: by the time the third permit comes, each of the others has had three too.
    assert seen.wait_s(3) == pytest.approx(seen.again_in_s + (2 + 3 + 3) / (PACE * 100))
    site.pass_s(1.06)
    again = await site.ask(first, "QueryToken")
    assert (again.permits, again.queues, again.group_queues) == (1, (), ())
    assert not await site.store.requests.command("EXISTS", "{q}:queues")


def test_while_the_breaker_is_open_waiting_begins_at_the_probe() -> None:
    """Both estimates count from when the next probe is due."""
    grant = PermitGrant(0, 0, 0.1, (), (), 10, 100, 10, 1, closed_for_s=5, is_probe=False)
    assert (grant.wait_s(1), grant.wait_s(11), grant.backlog_s(10)) == pytest.approx((5, 6, 6))


async def test_a_limit_may_be_out_of_the_way(site: Site) -> None:
    """A limit far beyond what can be called holds nothing up, and its log stays short, however many calls there are."""
    instance = site.instance(ApplyToken=1e9, egress_qps=1e9)
    for _ in range(3000):
        assert await site.take(instance, "ApplyToken", 10) == 10
        site.store.clock.shift_ms += 1
    assert len(site.given["ApplyToken"]) == 30_000
    for log in ("{q}:a:ApplyToken", "{q}:e:all"):
        assert await site.store.requests.command("LLEN", log) <= 1_100


async def test_a_log_holds_what_counts_and_little_more(site: Site) -> None:
    """Its length is that of the limit, also after idle time."""
    instance = site.instance()
    for _ in range(3):
        await site.saturate([(instance, "QueryToken")], 1.5)
        assert await site.store.requests.command("LLEN", "{q}:a:QueryToken") <= 100
        site.pass_s(0.9)


async def test_a_question_that_is_sent_again_costs_its_permits_and_nothing_else(site: Site) -> None:
    """What a lost answer took is used for nothing: the limit holds all the same, and the queue is known once."""
    instance, other = site.instance(), site.instance()
    question = PermitQuestion(1000, 1000, 1, 0.01, VALID_S, CallRank.FIRST)
    began, taken = site.now_s(), 0
    while site.now_s() < began + 2:
        for _ in range(2):
            taken += (await instance.take_permits("QueryToken", question)).permits
        site.pass_s(0.01)
    assert taken <= 100 * PACE * 2 + 6
    assert len((await site.ask(other, "QueryToken")).queues) == 1


async def test_everything_dies_by_itself(store: Store) -> None:
    """Every key of permits has a TTL of about a second at most, but the one that names the Redis server."""
    site = Site(store)
    instance = site.instance()
    seen: set[str] = set()
    for _ in range(20):
        site.pass_s(0.02)
        for action in ("ApplyToken", "RevokeToken"):
            await site.take(instance, action, 1000)
            for key in await site.keys():
                assert -1 != await site.store.requests.command("PTTL", key) <= 1100
                seen.add(key)
    assert {"{q}:queues", "{q}:e:all", "{q}:a:ApplyToken", "{q}:a:RevokeToken:state"} <= seen


async def test_usage_shows_what_counts_and_what_waits(site: Site) -> None:
    """Permits that count now and the queues of all instances are shown, and reading takes nothing."""
    use = QuotaUsageReader(site.store, limits=LIMITS)
    first, second, elsewhere = site.instance(), site.instance(), site.instance(group="other")
    assert await site.take(first, "RevokeToken", 4) == 1
    assert await site.take(second, "RevokeToken", 3) == 0
    assert await site.take(elsewhere, "QueryToken") == 1
    for _ in range(2):
        seen = {each.action: each for each in await use.read_usage()}
        assert list(seen) == ["", *QPS]
        revokes = seen["RevokeToken"]
        assert (revokes.limit, revokes.taken, revokes.waiting) == (5, 1, 6)
        assert (revokes.pace, revokes.full_pace) == pytest.approx((5 * PACE, 5 * PACE))
        assert (seen[""].limit, seen[""].taken, seen[""].waiting) == (300, 1, 6)
        assert (seen["QueryToken"].taken, seen["ApplyToken"].taken) == (1, 0)
    site.pass_s(1.1)
    assert not any(each.taken or each.waiting for each in await use.read_usage())


async def test_the_use_is_read_while_a_large_pipeline_runs(store: Store) -> None:
    """A check of the health waits neither for delivery nor for jobs."""
    pipeline = asyncio.create_task(store.background.command("BLPOP", "held-up", 0))
    async with asyncio.timeout(PATIENCE_S):
        await QuotaUsageReader(store, limits=LIMITS).read_usage()
    assert not pipeline.done()
    await store.requests.command("LPUSH", "held-up", "go on")
    await pipeline
