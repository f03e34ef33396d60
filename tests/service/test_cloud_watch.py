"""Reports of calls: when they are sent, in a time of their own; and what they change, on a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Literal

import pytest
from structlog.testing import capture_logs

from app.errors import Unavailable
from app.model.health import HealthStatus
from app.model.secrets import Secret
from app.service.audit import EventRecorder
from app.service.breaker_texts import BreakerTexts, health_while_open
from app.service.cloud_watch import DUE_S, LEAST_PAUSE_S, REPORT_EVERY_S, CloudWatch
from app.store.audit import AuditStore
from app.store.quota import CallReport, CloudStatus, QuotaSettings, QuotaUsageReader, SharedQuota
from app.store.redis_keys import OPERATORS_AUDIT
from app.store.store import Store
from app.tasks import end
from tests.service.test_call_findings import ANSWERS, LOST, OK, PROBE_ANSWERED, throttled
from tests.service.test_operators import audit_lines
from tests.virtual_time import run_virtual
from tests.waiting import until

LIMITS: Final = QuotaSettings(qps={"ApplyToken": 500.0, "RevokeToken": 5.0}, egress_qps=300.0, egress_group="all")
NOWHERE: Final = Secret("redis://127.0.0.1:1")


def watch_on(quota: SharedQuota, store: Store, name: str = "host-1:8080") -> CloudWatch:
    """Return the watch of an instance."""
    return CloudWatch(
        quota,
        usage=QuotaUsageReader(store, limits=LIMITS),
        recorder=EventRecorder(AuditStore(store)),
        clock=store.clock,
        texts=BreakerTexts(name, "all"),
        attempt_timeout_s=LIMITS.attempt_timeout_s,
    )


class ScriptedQuota(SharedQuota):
    """Takes reports, in a time of the test's own, and answers what the test says."""

    def __init__(self) -> None:
        super().__init__(Store(NOWHERE), limits=LIMITS)
        self.reports: list[tuple[float, CallReport]] = []
        self.tries: list[float] = []
        self.takes_s = 0.0
        self.is_away = False
        self.is_failing = False
        self._under_way = 0

    async def report_calls(self, report: CallReport) -> CloudStatus:
        """Take a report."""
        now = asyncio.get_running_loop().time
        self.tries.append(now())
        self._under_way += 1
        assert self._under_way == 1, "two reports at a time"
        try:
            await asyncio.sleep(self.takes_s)
            if self.is_away:
                raise Unavailable("away")
            self.reports.append((now(), report))
            return CloudStatus(self.is_failing, "", 0.0, "", 0, "")
        finally:
            self._under_way -= 1


def test_an_attempt_that_is_due_does_not_look_as_if_calls_went_on() -> None:
    """While calls are stopped it is above zero, however long ago the attempt was due."""

    async def play(_: ScriptedQuota, watch: CloudWatch) -> None:
        watch.status = replace(watch.status, scope="group", closed_for_s=1.0)
        watch.reported_at = asyncio.get_running_loop().time() - 5
        assert 0 < watch.closed_for_s() <= DUE_S

    in_virtual_time(play)


@pytest.mark.parametrize("scope", ["group", "instance"])
def test_an_attempt_that_is_due_is_said_to_wait_for_a_call(scope: Literal["group", "instance"]) -> None:
    """Where no device applies, no time of the attempt is known: 0 s would be wrong for as long as that lasts."""
    status = CloudStatus(is_failing=True, scope=scope, closed_for_s=0.0, reason="lost", opened_at_ms=0, change="")
    for due_s in (DUE_S, 0.4):
        detail = health_while_open(status, due_s).detail
        assert detail.endswith("since 1970-01-01T00:00:00.000Z, next attempt at the next application or revocation")
    assert health_while_open(status, 7.4).detail.endswith(", next attempt in 7 s")


def in_virtual_time(play: Callable[[ScriptedQuota, CloudWatch], Awaitable[None]]) -> None:
    """Run a play beside a watch that reports."""

    async def main() -> None:
        quota = ScriptedQuota()
        watch = watch_on(quota, Store(NOWHERE))
        task = asyncio.create_task(watch.report_regularly())
        await asyncio.sleep(0)
        await play(quota, watch)
        await end([task])

    run_virtual(main())


def test_an_instance_reports_once_a_second() -> None:
    """Also where nothing happens: the others must know that it lives. Answers in calm wait for that report."""

    async def play(quota: ScriptedQuota, watch: CloudWatch) -> None:
        for _ in range(1000):
            watch.note(OK)
            await asyncio.sleep(0.06)
        assert 55 <= len(quota.reports) <= 61
        assert all(report.answered for _, report in quota.reports[1:])

    in_virtual_time(play)


@pytest.mark.parametrize("outcome", [LOST, throttled("ApplyToken", 1), PROBE_ANSWERED], ids=["lost", "slow", "probe"])
def test_what_the_others_must_know_is_reported_at_once(outcome: Any) -> None:
    """Failures by connection, throttling and results of probes do not wait for the next second."""

    async def play(quota: ScriptedQuota, watch: CloudWatch) -> None:
        await asyncio.sleep(10.5)
        watch.note(outcome)
        await asyncio.sleep(0.001)
        at, report = quota.reports[-1]
        assert at == pytest.approx(10.5)
        assert report.failed or report.throttled or report.probe

    in_virtual_time(play)


def test_an_answer_is_reported_at_once_while_others_fail() -> None:
    """It shows that the cloud can be reached, before the breaker opens for all."""

    async def play(quota: ScriptedQuota, watch: CloudWatch) -> None:
        quota.is_failing = True
        await asyncio.sleep(10.5)
        watch.note(OK)
        await asyncio.sleep(0.001)
        assert quota.reports[-1][0] == pytest.approx(10.5)
        assert quota.reports[-1][1].answered

    in_virtual_time(play)


def test_reports_are_few_however_much_happens() -> None:
    """One at a time, with a pause between two; each has all that happened since the one before."""

    async def play(quota: ScriptedQuota, watch: CloudWatch) -> None:
        quota.takes_s = 0.2
        for number in range(10_000):
            watch.note(LOST if number % 2 else throttled("ApplyToken", number))
            await asyncio.sleep(0.001)
        assert len(quota.reports) <= 10 / (0.2 + LEAST_PAUSE_S) + 1
        assert all(report.failed and report.throttled for _, report in quota.reports[2:])

    in_virtual_time(play)


def test_while_redis_is_away_a_report_is_tried_once_a_second_and_nothing_is_lost() -> None:
    """No busy loop and no flood of lines in the log; the first report that is delivered has everything."""

    async def play(quota: ScriptedQuota, watch: CloudWatch) -> None:
        watch.note(throttled("RevokeToken", 3))
        quota.is_away = True
        for _ in range(10_000):
            watch.note(LOST)
            await asyncio.sleep(0.006)
        assert len(quota.tries) <= 62 / REPORT_EVERY_S
        quota.is_away = False
        quota.reports.clear()
        await asyncio.sleep(REPORT_EVERY_S)
        _, first = quota.reports[0]
        assert first.failed
        assert first.throttled == {"RevokeToken": 3}
        assert first.failing_s == pytest.approx(60, abs=2)

    with capture_logs() as logs:
        in_virtual_time(play)
    assert {line["log_level"] for line in logs} <= {"debug"}


class Group:
    """The instances of an egress group, each with its watch, on one Valkey."""

    def __init__(self, store: Store, count: int) -> None:
        self.store = store
        self.watches = [watch_on(SharedQuota(store, limits=LIMITS), store, f"host-{at}:8080") for at in range(count)]

    async def report(self, *outcomes: Any) -> list[str]:
        """Have each instance note its outcome, None for no call, and report; return whose breaker each sees open."""
        for watch, outcome in zip(self.watches, outcomes, strict=True):
            if outcome:
                watch.note(outcome)
            await watch.report_calls()
        return [watch.status.scope for watch in self.watches]

    async def until_scopes(self, *scopes: str, outcomes: list[Any]) -> None:
        """Repeat outcomes until the instances see these breakers open."""

        async def seen() -> bool:
            await self.report(*outcomes)
            return await self.report(*outcomes) == list(scopes)

        await until(seen, f"{scopes} open", every_s=0.05)

    async def events(self) -> list[tuple[str, str, str]]:
        """Return the audit of what concerns no single device."""
        return await audit_lines(self.store, OPERATORS_AUDIT)


@pytest.fixture
def group(store: Store) -> Group:
    """Three instances."""
    return Group(store, 3)


def lines_of(logs: list[Any], event: str) -> list[Any]:
    """Return the lines of an event."""
    return [line for line in logs if line["event"] == event]


async def test_that_the_cloud_is_gone_is_recorded_once_and_logged_by_each(group: Group) -> None:
    """When it opened, why, and when it ended: one entry of the audit each, and one line of each instance's log."""
    with capture_logs() as logs:
        await group.report(OK, OK, OK)
        await group.until_scopes("group", "group", "group", outcomes=[LOST, LOST, None])
        await group.report(LOST, LOST, LOST)
        assert [line["reason"] for line in lines_of(logs, "breaker_opened")] == ["ConnectionLost"] * 3
        assert all("network" in line["cure"] for line in lines_of(logs, "breaker_opened"))
        await group.until_scopes("", "", "", outcomes=[None, PROBE_ANSWERED, None])
        assert [line["scope"] for line in lines_of(logs, "breaker_closed")] == ["group"] * 3
        assert all(0 <= line["open_s"] < 20 for line in lines_of(logs, "breaker_closed"))
    opened, closed = await group.events()
    assert opened[:2] == ("server", "breaker_opened")
    assert "egress group all" in opened[2]
    assert "ConnectionLost" in opened[2]
    assert closed[:2] == ("server", "breaker_closed")
    assert "the cloud answers again" in closed[2]


async def test_an_instance_that_starts_while_calls_are_stopped_says_so(group: Group) -> None:
    """It learns from its first report that it must not call."""
    await group.until_scopes("group", "group", "group", outcomes=[LOST, LOST, None])
    started = watch_on(SharedQuota(group.store, limits=LIMITS), group.store)
    assert started.closed_for_s() == 0
    with capture_logs() as logs:
        await started.report_calls()
        await started.report_calls()
    assert [line["scope"] for line in lines_of(logs, "breaker_opened")] == ["group"]
    assert 0 < started.closed_for_s() <= 1.2 * 2
    assert len(await group.events()) == 1


@pytest.mark.parametrize("step_s", [-600, 600])
async def test_a_step_of_the_clock_does_no_harm(group: Group, step_s: int) -> None:
    """Whatever Redis's clock says, the breaker closes with the first answer, and no time is below zero."""
    await group.until_scopes("group", "group", "group", outcomes=[LOST, LOST, None])
    group.store.clock.shift_ms += step_s * 1000
    with capture_logs() as logs:
        await group.until_scopes("", "", "", outcomes=[None, PROBE_ANSWERED, None])
    assert all(line["open_s"] >= 0 for line in lines_of(logs, "breaker_closed"))
    assert [what for _, what, _ in await group.events()] == ["breaker_opened", "breaker_closed"]


async def test_an_instance_that_fails_alone_says_so(group: Group) -> None:
    """With the cure; it is degraded and goes on serving, and the others notice nothing."""
    with capture_logs() as logs:
        await group.until_scopes("", "instance", "", outcomes=[OK, LOST, OK])
    [line] = lines_of(logs, "breaker_opened")
    assert all(word in line["cure"] for word in ("network", "DNS", "egress", "certificate"))
    [(_, what, detail)] = await group.events()
    assert what == "breaker_opened"
    assert "instance host-1:8080 alone cannot reach the cloud" in detail
    alone = await group.watches[1].ping()
    assert alone.status == HealthStatus.DEGRADED
    assert "this instance alone cannot reach the cloud (ConnectionLost)" in alone.detail
    assert (await group.watches[0].ping()).status == HealthStatus.READY
    assert group.watches[1].closed_for_s() > 0
    assert group.watches[0].closed_for_s() == 0


async def test_answers_of_every_kind_keep_it_closed(group: Group) -> None:
    """However many refusals come, for longer than it takes to open."""
    until_at = asyncio.get_running_loop().time() + 2.5

    async def over() -> bool:
        for answer in ANSWERS:
            assert await group.report(answer, answer, answer) == ["", "", ""]
        return asyncio.get_running_loop().time() > until_at

    await until(over, "2.5 s of refusals", every_s=0.05)
    assert await group.events() == []


async def test_a_throttled_api_is_degraded_until_its_pace_is_full(group: Group) -> None:
    """The check names the API and how much of its pace is left."""
    watch = group.watches[0]
    assert (await watch.ping()).status == HealthStatus.READY
    watch.note(throttled("RevokeToken", watch._clock.now_ms() * 1000))
    await watch.report_calls()
    for each in group.watches:
        health = await each.ping()
        assert health.status == HealthStatus.DEGRADED
        assert "the cloud throttles RevokeToken: calls go on at 70% of the pace" in health.detail
        assert "RevokeToken" not in str(health.cure)
        assert "APPLY_TOKEN_QPS" in str(health.cure)


async def test_without_redis_the_check_of_the_cloud_says_nothing() -> None:
    """That of Redis does."""
    store = Store(NOWHERE)
    watch = watch_on(SharedQuota(store, limits=LIMITS), store)
    assert (await watch.ping()).status == HealthStatus.READY
    with pytest.raises(Unavailable):
        await watch.report_calls()
