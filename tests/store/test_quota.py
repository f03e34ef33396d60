"""The script alone, in a time of its own: it passes only where a test says so, whatever else the machine does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from app.model.calls import CallRank
from app.store import quota
from app.store.quota import (
    VALID_S,
    PermitGrant,
    PermitQuestion,
    QuotaSettings,
    QuotaUsageReader,
    SharedQuota,
    full_pace,
)
from app.store.redis_keys import QUOTA_SERVER
from app.store.script import Script
from app.store.store import Store

QPS = {"ApplyToken": 500.0, "QueryToken": 100.0, "RevokeToken": 5.0, "SendMessage": 1000.0}
LIMITS = QuotaSettings(QPS, egress_qps=300, egress_group="all")
PACE = full_pace(1, LIMITS.jitter_s)


async def ask(instance: SharedQuota, action: str, waiting: int = 1, least: int = 1) -> PermitGrant:
    """Ask once for permits that would be used at once."""
    question = PermitQuestion(waiting, waiting, least, batch_s=0.01, valid_s=VALID_S, rank=CallRank.FIRST)
    return await instance.take_permits(action, question)


class StoppedScript(Script):
    """A script whose only time is the clock's shift, so that Redis may forget a thousand times later."""

    @property
    def text(self) -> str:
        """The script without Redis's clock."""
        return super().text.replace("redis.call('TIME')", "{0, 0}").replace(" / 1000)", ")")


@dataclass
class Site:
    """Instances that ask, and the instants, in seconds, at which they were given permits."""

    store: Store
    given: dict[str, list[float]] = field(default_factory=dict)
    shares: Counter[SharedQuota] = field(default_factory=Counter)

    def instance(self, *, egress_qps: float = 300, group: str = "all", **qps: float) -> SharedQuota:
        """Return another instance."""
        return SharedQuota(self.store, limits=QuotaSettings(QPS | qps, egress_qps, group))

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.store.clock.shift_ms += round(seconds * 1000)

    def now_s(self) -> float:
        """Return the time that the script sees."""
        return self.store.clock.shift_ms / 1000

    async def take(self, instance: SharedQuota, action: str, waiting: int = 1, least: int = 1) -> int:
        """Ask once, and note what was given."""
        taken = await ask(instance, action, waiting, least)
        if taken.permits:
            at = self.now_s()
            self.given.setdefault(action, []).extend([at] * taken.permits)
            self.shares[instance] += taken.permits
        return taken.permits

    async def saturate(self, askers: Sequence[tuple[SharedQuota, str]], seconds: float, pause_s: float = 0.01) -> float:
        """Have all ask again and again, irregularly, and now and then none for a while. Returns the seconds it took."""
        chance = random.Random(len(askers))  # noqa: S311 (the same each time)
        began = self.now_s()
        while self.now_s() < began + seconds:
            self.pass_s(chance.uniform(0, pause_s) + (0.04 if chance.random() < 0.01 else 0))
            for instance, action in chance.sample(askers, len(askers)):
                while await self.take(instance, action, waiting=1000):
                    pass
        return self.now_s() - began


def most_in_a_second(given: list[float]) -> int:
    """Return the most permits within any second."""
    most = first = 0
    given = sorted(given)
    for last, at in enumerate(given):
        while at - given[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.fixture
def site(store: Store, monkeypatch: pytest.MonkeyPatch) -> Site:
    """No instance yet, on an empty Redis."""
    for name in ("_TAKE", "_READ_USAGE"):
        script = getattr(quota, name)
        monkeypatch.setattr(quota, name, StoppedScript(script.name, script.may_oom, script.prelude))
    store.clock.shift_ms = store.clock.now_ms()
    return Site(store)


@pytest.mark.parametrize(("action", "limit", "seconds"), [("QueryToken", 100, 4), ("RevokeToken", 5, 20)])
async def test_an_api_is_used_up_and_never_over_its_limit(site: Site, action: str, limit: int, seconds: int) -> None:
    """Three instances get at least 95 % of the limit and in no second more than it, whenever that second begins."""
    instances = [site.instance() for _ in range(3)]
    took_s = await site.saturate([(each, action) for each in instances], seconds, pause_s=0.02)
    assert most_in_a_second(site.given[action]) <= limit
    assert len(site.given[action]) >= 0.95 * full_pace(limit, LIMITS.jitter_s) * took_s
    assert min(site.shares.values()) >= 0.1 * sum(site.shares.values())


async def test_all_apis_together_keep_to_the_egress_limit(site: Site) -> None:
    """The address makes at least 95 % of its calls and in no second more, and a slow API has its share all the same."""
    instances = [site.instance() for _ in range(3)]
    askers = [(each, action) for each in instances for action in ("ApplyToken", "SendMessage")]
    took_s = await site.saturate([*askers, (instances[0], "RevokeToken")], 3)
    together = [at for given in site.given.values() for at in given]
    assert most_in_a_second(together) <= 300
    assert len(together) >= 0.95 * 300 * took_s
    assert len(site.given["RevokeToken"]) >= 0.6 * 5 * took_s
    assert min(len(site.given["ApplyToken"]), len(site.given["SendMessage"])) >= 0.3 * 300 * took_s


async def test_each_egress_group_has_a_limit_of_its_own(site: Site) -> None:
    """Two addresses together make more calls than one may."""
    instances = [site.instance(group=name) for name in ("here", "there")]
    took_s = await site.saturate([(each, "SendMessage") for each in instances], 2)
    assert len(site.given["SendMessage"]) >= 0.95 * 600 * took_s


async def test_whoever_waits_holds_nothing(site: Site) -> None:
    """A refused RevokeToken takes nothing of the address's share, and an ApplyToken beside it is given at once."""
    instance = site.instance(egress_qps=20)
    assert await site.take(instance, "RevokeToken") == 1
    for _ in range(30):
        assert await site.take(instance, "RevokeToken", waiting=10) == 0
    assert await site.store.requests.command("LLEN", "{q}:e:all") == 1
    site.pass_s(0.05)
    assert await site.take(instance, "ApplyToken") == 1


async def test_a_burst_is_short(site: Site) -> None:
    """After idle time there are at most the permits of 50 ms, in small batches."""
    instance = site.instance()
    batches = []
    while permits := await site.take(instance, "ApplyToken", waiting=1000):
        batches.append(permits)
    assert max(batches) == 3
    assert 0.045 * 300 <= sum(batches) <= 1 + 0.05 * 300


async def test_two_at_once_are_given_together_or_not_at_all(site: Site) -> None:
    """Even where the pace brings one in 200 ms; and the limit holds, so of five a second two pairs can be had."""
    instance = site.instance()
    began = site.now_s()
    while site.now_s() < began + 10:
        permits = await site.take(instance, "RevokeToken", waiting=2, least=2)
        assert permits in {0, 2}
        site.pass_s(0.01)
    assert most_in_a_second(site.given["RevokeToken"]) <= 5
    assert len(site.given["RevokeToken"]) >= 0.95 * 4 * 10


@pytest.mark.parametrize("limit", [0.3, 0.5, 1, 1.6, 3, 7, 19])
async def test_two_at_once_can_always_be_had(site: Site, limit: float) -> None:
    """Also where that is more than a second's worth: first at once, then after twice the time that one takes."""
    instance = site.instance(RevokeToken=limit)
    assert await site.take(instance, "RevokeToken", waiting=2, least=2) == 2
    refused = await ask(instance, "RevokeToken", 2, 2)
    assert refused.permits == 0
    assert 0 < refused.again_in_s <= max(1, 2 / limit) / PACE + 1e-3
    site.pass_s(refused.again_in_s + 0.001)
    assert await site.take(instance, "RevokeToken", waiting=2, least=2) == 2


async def test_it_says_truly_when_to_ask_again(site: Site) -> None:
    """Just before that instant there is nothing, from then on there is."""
    instance = site.instance()
    while await site.take(instance, "RevokeToken"):
        pass
    again_in_s = (await ask(instance, "RevokeToken", 1, 1)).again_in_s
    assert 0.1 < again_in_s < 0.21
    site.pass_s(again_in_s - 0.002)
    assert await site.take(instance, "RevokeToken") == 0
    site.pass_s(0.003)
    assert await site.take(instance, "RevokeToken") == 1


async def test_limits_that_differ_do_no_harm(site: Site) -> None:
    """While a new limit is rolled out, the lower of the two holds where both wait, and nobody is shut out."""
    old, new = site.instance(QueryToken=50), site.instance(QueryToken=200)
    took_s = await site.saturate([(old, "QueryToken"), (new, "QueryToken")], 3)
    assert most_in_a_second(site.given["QueryToken"]) <= 50
    assert len(site.given["QueryToken"]) >= 0.9 * 50 * took_s
    assert min(site.shares[old], site.shares[new]) >= 0.2 * 50 * took_s
    assert await site.take(new, "QueryToken") == 0
    site.pass_s(1.01)
    await site.saturate([(new, "QueryToken")], 1)
    assert 150 < most_in_a_second(site.given["QueryToken"]) <= 200


async def test_a_clock_that_is_set_back_stops_nobody_for_long(site: Site) -> None:
    """After a jump by an hour calls go on after one window; after a small step when it is made up."""
    instance = site.instance()
    await site.saturate([(instance, "QueryToken")], 0.5)
    site.pass_s(-3600)
    assert await site.take(instance, "QueryToken") == 0
    site.pass_s(1 / PACE)
    assert await site.take(instance, "QueryToken") == 1
    await site.saturate([(instance, "QueryToken")], 1.5)
    site.pass_s(-0.5)
    began = site.now_s()
    while not await site.take(instance, "QueryToken"):
        site.pass_s(0.01)
    assert site.now_s() - began < 0.5 + 1 / PACE


async def test_lines_are_known_to_the_others_for_a_second(site: Site) -> None:
    """An instance learns how long the others' lines are, and forgets the one that no longer speaks."""
    first, second, third = site.instance(), site.instance(), site.instance(group="elsewhere")
    while await site.take(first, "QueryToken", waiting=7):
        pass  # six are left
    await site.take(third, "QueryToken", waiting=20)
    await ask(second, "ApplyToken", 6, 1)
    seen = await ask(second, "QueryToken", 5, 1)
    assert sorted(seen.queues) == [6, 20]
    assert sorted(seen.group_queues) == [3, 6]
    assert seen.backlog_s(5) == pytest.approx(seen.again_in_s + 31 / (PACE * 100))
    # Served side by side: by the time the third permit comes, each of the others has had three too.
    assert seen.wait_s(3) == pytest.approx(seen.again_in_s + (2 + 3 + 3) / (PACE * 100))
    site.pass_s(1.01)
    again = await ask(first, "QueryToken", 1, 1)
    assert (again.permits, again.queues, again.group_queues) == (1, (), ())
    assert not await site.store.requests.command("EXISTS", "{q}:queues")


async def test_a_limit_may_be_out_of_the_way(site: Site) -> None:
    """A limit far beyond what can be called, as for measurements, holds nobody up."""
    instance = site.instance(ApplyToken=1e9, egress_qps=1e9)
    assert [await site.take(instance, "ApplyToken") for _ in range(3)] == [1, 1, 1]


async def test_everything_dies_by_itself(store: Store) -> None:
    """Every key has a TTL of about a second at most."""
    site = Site(store)
    instance = site.instance()
    seen: set[str] = set()
    for _ in range(20):
        site.pass_s(0.02)
        for action in ("ApplyToken", "RevokeToken"):
            await site.take(instance, action, waiting=1000)
            for key in {*await site.store.requests.command("KEYS", "{q}:*")} - {QUOTA_SERVER}:
                assert -1 != await site.store.requests.command("PTTL", key) <= 1100
                seen.add(key)
    assert {"{q}:queues", "{q}:e:all", "{q}:a:ApplyToken", "{q}:a:RevokeToken:state"} <= seen


async def test_people_see_how_much_is_in_use(site: Site) -> None:
    """Permits of the last second and the lines of all instances are told, and looking takes nothing."""
    use = QuotaUsageReader(site.store, limits=LIMITS)
    first, second, elsewhere = site.instance(), site.instance(), site.instance(group="other")
    assert await site.take(first, "RevokeToken", waiting=4) == 1
    assert await site.take(second, "RevokeToken", waiting=3) == 0
    assert await site.take(elsewhere, "QueryToken") == 1
    for _ in range(2):
        seen = {each.action: each for each in await use.read_usage()}
        assert list(seen) == ["", *QPS]
        assert (seen["RevokeToken"].limit, seen["RevokeToken"].pace) == (5, 5 * PACE)
        assert (seen["RevokeToken"].taken, seen["RevokeToken"].waiting) == (1, 6)
        assert (seen[""].limit, seen[""].taken, seen[""].waiting) == (300, 1, 6)
        assert (seen["QueryToken"].taken, seen["ApplyToken"].taken) == (1, 0)
    site.pass_s(1.1)
    assert not any(each.taken or each.waiting for each in await use.read_usage())
