"""The circuit breaker of an egress group: when it opens, who probes, and how the pace comes back."""

from __future__ import annotations

import pytest

from app.model.calls import CallRank
from app.store.quota import CallReport, SharedQuota
from tests.store.quota_site import LEASE_S, PACE, Site

PAUSES_S = (2, 5, 10, 20, 40, 60)


async def open_for_group(site: Site, *instances: SharedQuota) -> None:
    """Have all fail for two seconds, so that the group's breaker opens."""
    for failing_s in (0.1, 1.1, 2.1):
        for each in instances:
            await site.report(each, failing_s=failing_s)
        site.pass_s(1)
    site.pass_s(-1)


async def pass_to_probe(site: Site, instance: SharedQuota) -> float:
    """Let the time pass until this instance may probe; returns how long it was."""
    grant = await site.ask(instance, "QueryToken", ready=0)
    assert grant.closed_for_s > 0
    site.pass_s(grant.closed_for_s + 0.001)
    return grant.closed_for_s


async def probe(site: Site, instance: SharedQuota) -> bool:
    """Ask for permits, and return whether they are a probe; another than a probe there must not be."""
    grant = await site.ask(instance, "QueryToken", 10, least=2)
    assert grant.permits == (2 if grant.is_probe else 0)
    assert grant.closed_for_s > 0
    return grant.is_probe


async def test_it_opens_when_two_instances_fail_and_none_succeeds_for_two_seconds(site: Site) -> None:
    """From then on there are no permits, for any API of the group; another group is none the wiser."""
    one, other, elsewhere = site.instance(), site.instance(), site.instance(group="elsewhere")
    for failing_s in (0.5, 1.0, 1.5):
        assert not (await site.report(one, failing_s=failing_s)).scope
        assert not (await site.report(other, failing_s=failing_s)).scope
        site.pass_s(0.5)
    opened = await site.report(one, failing_s=2.0)
    assert (opened.scope, opened.change, opened.is_failing) == ("group", "opened", True)
    assert opened.reason == "ConnectionRefused"
    assert opened.opened_at_ms == site.store.clock.shift_ms
    assert 0.8 * 2 <= opened.closed_for_s <= 1.2 * 2
    noticed = await site.report(other, failing_s=2.0)
    assert (noticed.scope, noticed.change) == ("group", "")
    for action in ("QueryToken", "ApplyToken"):
        grant = await site.ask(other, action)
        assert (grant.permits, grant.closed_for_s) == (0, opened.closed_for_s)
        assert grant.again_in_s == grant.closed_for_s
    assert await site.take(elsewhere, "QueryToken") == 1


async def test_the_only_instance_opens_it_alone(site: Site) -> None:
    """Also where another was live until three seconds ago."""
    one, gone = site.instance(), site.instance()
    await site.report(gone, answered=True)
    site.pass_s(2.5)
    assert (await site.report(one, failing_s=2.5)).scope == "instance"
    site.pass_s(1)
    last = site.instance()
    await site.store.requests.command("DEL", "{q}:instances:all")
    assert (await site.report(last, failing_s=2.1)).scope == "group"


@pytest.mark.parametrize("failing_s", [0, 1.9])
async def test_it_does_not_open_before_calls_fail_for_two_seconds(site: Site, failing_s: float) -> None:
    """A call that fails now and then is what attempts are repeated for."""
    for _ in range(5):
        assert not (await site.report(site.instance(), failing_s=failing_s)).scope
        site.pass_s(4)


async def test_it_does_not_open_without_another_failure(site: Site) -> None:
    """An instance that has made no call since one failed knows nothing more of the cloud."""
    instance = site.instance()
    await site.report(instance, failing_s=0.1)
    for _ in range(5):
        site.pass_s(1)
        idle = CallReport(answered=False, failed=False, failing_s=5, throttled={}, probe="", reason="")
        assert not (await instance.report_calls(idle)).scope


async def test_a_refusal_never_opens_it(site: Site) -> None:
    """Throttling or whatever else the cloud answers is an answer: calls reach it."""
    one, other = site.instance(), site.instance()
    for _ in range(10):
        for each in (one, other):
            status = await site.report(each, answered=True, throttled={"QueryToken": site.now_s()})
            assert (status.scope, status.is_failing) == ("", False)
        site.pass_s(0.5)


async def test_one_that_is_alone_in_failing_opens_its_own(site: Site) -> None:
    """Where others are answered its calls stop, and theirs go on at the full pace; its own answer closes it."""
    alone, one, other = site.instance(), site.instance(), site.instance()
    for failing_s in (0.1, 1.1):
        for each in (one, other):
            await site.report(each, answered=True)
        assert not (await site.report(alone, failing_s=failing_s)).scope
        site.pass_s(1)
    opened = await site.report(alone, failing_s=2.1)
    assert (opened.scope, opened.change) == ("instance", "opened")
    assert (await site.report(one, answered=True)).scope == ""
    assert await site.take(alone, "QueryToken") == 0
    grant = await site.ask(one, "QueryToken")
    assert (grant.permits, grant.closed_for_s) == (1, 0)
    assert grant.pace == grant.full_pace
    await pass_to_probe(site, alone)
    assert await probe(site, alone)
    closed = await site.report(alone, answered=True, probe="answered")
    assert (closed.scope, closed.change) == ("", "closed")
    grant = await site.ask(alone, "QueryToken")
    assert grant.permits == 1
    assert grant.pace == grant.full_pace


async def test_two_that_fail_where_a_third_is_answered_open_their_own(site: Site) -> None:
    """The group's stays closed as long as a call of the group succeeds."""
    one, other, third = site.instance(), site.instance(), site.instance()
    for seconds in range(6):
        for each in (one, other):
            await site.report(each, failing_s=seconds + 0.1)
        await site.report(third, answered=True)
        site.pass_s(1)
    assert [(await site.report(each, failing_s=7)).scope for each in (one, other)] == ["instance"] * 2
    assert (await site.report(third, answered=True)).scope == ""


async def test_when_others_fail_too_the_group_s_takes_the_place_of_an_instance_s_own(site: Site) -> None:
    """When it closes, calls of all go on: none waits for a probe of its own."""
    alone, other = site.instance(), site.instance()
    for failing_s in (0.1, 1.1, 2.1):
        await site.report(other, answered=True)
        status = await site.report(alone, failing_s=failing_s)
        site.pass_s(1)
    assert status.scope == "instance"
    for failing_s in (1.0, 2.0, 3.0):
        status = await site.report(other, failing_s=failing_s)
        await site.report(alone, failing_s=3)
        site.pass_s(1)
    assert status.scope == "group"
    await site.report(alone, failing_s=6)
    await site.report(other, answered=True)
    assert (await site.report(alone, failing_s=0)).scope == ""
    assert await site.take(alone, "QueryToken") == 1


async def test_one_instance_probes_at_a_time(site: Site) -> None:
    """The first that asks with a call that is ready, once the probe is due; its lease keeps off the others."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    closed_s = (await site.ask(one, "QueryToken", ready=0)).closed_for_s
    site.pass_s(closed_s - 0.01)
    assert not await probe(site, one)
    site.pass_s(0.02)
    waiting = await site.ask(one, "QueryToken", 10, ready=0)
    assert (waiting.permits, waiting.is_probe) == (0, False)
    assert 0 < waiting.closed_for_s < 0.001
    assert await probe(site, other)
    for each in (one, other):
        assert not await probe(site, each)
        assert (await site.ask(each, "QueryToken", ready=0)).closed_for_s == pytest.approx(LEASE_S)


async def test_a_probe_that_is_answered_closes_it(site: Site) -> None:
    """For all; which instance closed it is answered once, and how long it was open."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    opened_at_ms = (await site.report(other, failing_s=3)).opened_at_ms
    await pass_to_probe(site, other)
    assert await probe(site, other)
    closed = await site.report(other, answered=True, probe="answered")
    assert (closed.scope, closed.change, closed.closed_for_s) == ("", "closed", 0)
    assert (closed.opened_at_ms, closed.reason) == (opened_at_ms, "ConnectionRefused")
    assert (await site.report(one)).change == ""
    assert (await site.report(other, answered=True)).change == ""
    assert await site.take(one, "QueryToken") == 1


async def test_any_answer_of_the_group_closes_it(site: Site) -> None:
    """A call that was under way when it opened, and was answered late, shows as much as a probe."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    assert (await site.report(one, answered=True)).change == "closed"
    assert await site.take(other, "QueryToken") == 1


async def test_failures_from_before_it_closed_open_no_other(site: Site) -> None:
    """An instance that has not learned yet that the cloud answers again opens neither its own nor the group's."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    assert (await site.report(one, answered=True)).change == "closed"
    site.pass_s(0.3)
    late = await site.report(other, failing_s=2.8)
    assert (late.scope, late.change) == ("", "")
    site.pass_s(1.8)
    assert (await site.report(other, failing_s=4.6)).scope == "instance"


async def test_pauses_grow_up_to_a_minute(site: Site) -> None:
    """2, 5, 10, 20, 40, 60 and 60 s, each by chance up to a fifth shorter or longer."""
    instance = site.instance()
    await open_for_group(site, instance)
    for pause_s in (*PAUSES_S, 60):
        closed_s = await pass_to_probe(site, instance)
        assert 0.8 * pause_s <= closed_s <= 1.2 * pause_s
        assert await probe(site, instance)
        status = await site.report(instance, failing_s=100, probe="failed")
        assert (status.scope, status.change) == ("group", "")


async def test_one_that_cannot_connect_has_probed_in_vain(site: Site) -> None:
    """Without a permit: then pauses grow too, once for all that tried at the same time, and not before one is due."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    early = await site.report(other, failing_s=9, probe="failed")
    assert early.closed_for_s <= 1.2 * 2
    for pause_s in PAUSES_S[1:]:
        site.pass_s((await site.report(other, failing_s=9)).closed_for_s + 0.001)
        await site.report(one, failing_s=9)
        failed = await site.report(other, failing_s=9, probe="failed")
        same = await site.report(one, failing_s=9, probe="failed")
        assert 0.8 * pause_s <= same.closed_for_s <= 1.2 * pause_s
        assert failed.closed_for_s == pytest.approx(same.closed_for_s + 1)
        one, other = other, one


async def test_the_pauses_of_two_outages_are_not_the_same(site: Site) -> None:
    """By chance, so that groups which fail together do not probe together for ever."""
    seen = set()
    for number in range(4):
        instance = site.instance(group=f"group-{number}")
        await open_for_group(site, instance)
        seen.add((await site.ask(instance, "QueryToken", ready=0)).closed_for_s)
    assert len(seen) == 4


async def test_one_whose_probe_failed_leaves_the_next_to_others_for_a_second(site: Site) -> None:
    """It may be its own connection that is at fault; an instance that is the only one does not wait for others."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    await pass_to_probe(site, one)
    assert await probe(site, one)
    failed = await site.report(one, failing_s=9, probe="failed")
    noticed = await site.report(other, failing_s=9)
    assert failed.closed_for_s == pytest.approx(noticed.closed_for_s + 1)
    site.pass_s(noticed.closed_for_s + 0.001)
    assert not await probe(site, one)
    site.pass_s(0.9)
    assert not await probe(site, one)
    site.pass_s(0.1)
    assert await probe(site, one)
    await site.report(one, failing_s=9, probe="failed")
    noticed = await site.report(other, failing_s=9)
    site.pass_s(noticed.closed_for_s + 0.001)
    assert await probe(site, other)


async def test_the_lease_of_a_holder_that_was_killed_ends(site: Site) -> None:
    """After the time of an attempt and a second another instance probes, without a longer pause."""
    killed, other = site.instance(), site.instance()
    await open_for_group(site, killed, other)
    await pass_to_probe(site, killed)
    assert await probe(site, killed)
    site.pass_s(LEASE_S - 0.01)
    assert not await probe(site, other)
    site.pass_s(0.02)
    assert await probe(site, other)
    # What the first one reports after its lease has ended changes nothing.
    before = await site.report(other, failing_s=9)
    late = await site.report(killed, failing_s=9, probe="failed")
    assert (late.scope, late.closed_for_s) == ("group", before.closed_for_s)


async def test_a_probe_that_was_not_sent_is_given_back(site: Site) -> None:
    """Its caller went away, or its permits became void: the next may probe at once."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    await pass_to_probe(site, one)
    assert await probe(site, one)
    await site.report(one, failing_s=9, probe="unsent")
    assert await probe(site, other)


async def test_reports_that_are_sent_again_change_nothing(site: Site) -> None:
    """A failed probe counts once, and a change whose answer was lost is answered again, but recorded once."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    await pass_to_probe(site, one)
    assert await probe(site, one)
    once = await site.report(one, failing_s=9, probe="failed")
    again = await site.report(one, failing_s=9, probe="failed")
    assert once == again
    one._recorded = ("", "0")  # as if the answer with its last change had been lost
    other._recorded = ("", "0")
    assert {(await site.report(each, failing_s=9)).change for each in (one, other)} == {"opened", ""}


async def test_the_pace_comes_back_in_a_few_seconds(site: Site) -> None:
    """From 10 % it doubles each second, for every API of the group: at 95 % after less than six seconds."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    await site.report(one, answered=True)
    for seconds, expected in ((0, 0.1), (1, 0.2), (2, 0.4), (3, 0.8), (4, 1), (60, 1)):
        grants = [await site.ask(other, action, ready=0) for action in ("QueryToken", "RevokeToken")]
        assert [each.pace / each.full_pace for each in grants] == pytest.approx([expected] * 2)
        assert grants[0].group_pace == pytest.approx(300 * PACE * expected)
        site.pass_s(1 if seconds < 4 else 56)


@pytest.mark.parametrize("limit", [5, 100])
async def test_permits_follow_the_pace_as_it_comes_back(site: Site, limit: int) -> None:
    """No burst when it closes, and less than six seconds later at least 95 % of the full pace is used."""
    instance = site.instance(QueryToken=limit)
    await open_for_group(site, instance)
    await site.report(instance, answered=True)
    closed_at_ms = site.store.clock.shift_ms
    await site.saturate([(instance, "QueryToken")], 16)
    at_s = [(each.at_ms - closed_at_ms) / 1000 for each in site.given["QueryToken"]]
    assert len([at for at in at_s if at < 1]) <= 0.2 * limit + 1
    assert len([at for at in at_s if 6 <= at < 16]) >= 0.95 * 10 * limit * PACE


async def test_the_probe_is_given_by_rank_to_none_in_particular(site: Site) -> None:
    """What waits while it is open reserves nothing: the first that asks probes, whatever its rank."""
    one, other = site.instance(), site.instance()
    await open_for_group(site, one, other)
    await site.ask(one, "QueryToken", 10, rank=CallRank.OPERATOR)
    await pass_to_probe(site, other)
    assert (await site.ask(other, "QueryToken", 10, rank=CallRank.RENEWAL)).is_probe


async def test_instances_that_report_are_counted(site: Site) -> None:
    """Those of the last three seconds, in this group."""
    instances = [site.instance() for _ in range(3)]
    for count, each in enumerate(instances, 1):
        await site.report(each)
        assert (await site.ask(each, "QueryToken")).instances == count
    await site.report(site.instance(group="elsewhere"))
    assert (await site.ask(instances[0], "QueryToken")).instances == 3
    site.pass_s(2.9)
    await site.report(instances[0])
    site.pass_s(0.2)
    assert (await site.ask(instances[1], "QueryToken")).instances == 1


async def test_a_clock_that_is_set_back_holds_up_no_probe_for_long(site: Site) -> None:
    """What was to come in a time that is gone is due now; and the pace is full, as it is without any state."""
    instance = site.instance()
    await open_for_group(site, instance)
    site.pass_s(-3600)
    assert await probe(site, instance)
    await site.report(instance, answered=True, probe="answered")
    site.pass_s(-3600)
    grant = await site.ask(instance, "QueryToken", ready=0)
    assert grant.pace == grant.full_pace


async def test_missing_state_is_a_closed_breaker(site: Site) -> None:
    """A Redis that lost it lets calls go, at the full pace."""
    instance = site.instance()
    await open_for_group(site, instance)
    await site.store.requests.command("DEL", "{q}:breaker:all", "{q}:instances:all")
    grant = await site.ask(instance, "QueryToken")
    assert (grant.permits, grant.closed_for_s) == (1, 0)


async def test_everything_about_the_breaker_dies_by_itself(site: Site) -> None:
    """Instances after 3 s, an open breaker 2 minutes after the last report, a closed one after 10 s."""

    async def ttls_s() -> dict[str, float]:
        return {key: await site.ttl_s(key) for key in await site.keys()}

    alone, one = site.instance(), site.instance()
    for failing_s in (0.1, 1.1, 2.1):
        await site.report(one, answered=True)
        await site.report(alone, failing_s=failing_s)
        site.pass_s(1)
    assert await ttls_s() == pytest.approx({f"{{q}}:breaker:all:{alone.name}": 120, "{q}:instances:all": 3}, abs=0.1)
    await open_for_group(site, alone, one)
    await site.report(alone, failing_s=3)
    assert await ttls_s() == pytest.approx({"{q}:breaker:all": 120, "{q}:instances:all": 3}, abs=0.1)
    await site.report(one, answered=True)
    assert await ttls_s() == pytest.approx({"{q}:breaker:all": 10, "{q}:instances:all": 3}, abs=0.1)
