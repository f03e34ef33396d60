from __future__ import annotations

import asyncio
import itertools
import math
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.cloud.client import AppliedTokens, CloudClient
from app.cloud.quota import QuotaExhausted
from app.container import Services
from app.model.calls import CallRank
from app.model.grants import parse_scope
from app.settings import Settings
from app.store.quota import full_pace
from app.store.records import MAY_APPLY
from app.web.route import SERVICES
from tests.callers import Answer, Caller
from tests.waiting import until
from tests.web.conftest import MakeCaller, OwnCloud, connected_server

PAIR_S = 30
"""How often there are permits for a pair of cloud tokens, in the overloaded server."""

NEAR_S = 5
"""How late the machine may be."""

STEP_S = 0.93 * PAIR_S
"""How much later each next device that is refused there should come back."""

FAR_S = 1000
"""A time that no answer names unless it was promised."""


def retry_after_s(answer: Answer) -> int:
    """Return when a refused device should come back, in seconds."""
    assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable"), answer
    return int(answer.headers["Retry-After"])


@dataclass
class Overloaded:
    """A server with a queue for permits that has no room; it gets a pair of them every 30 s."""

    client: TestClient[Any, Any]
    make_caller: MakeCaller
    live: Caller
    """Has a live token."""
    waiting: asyncio.Task[Answer]
    """The request that waits for the next permits."""

    @property
    def services(self) -> Services:
        """Its services."""
        services: Services = self.client.app[SERVICES]
        return services

    async def device(self, number: int) -> Caller:
        """Register another device."""
        return replace(await self.make_caller(f"GID_plant@@@d{number}"), client=self.client)

    async def applications(self) -> int:
        """Return how many applications are under way."""
        redis = self.services.stores.redis.requests
        handles = [await redis.command("HGET", key, "handle") for key in await redis.command("KEYS", "*:f:*")]
        return len([handle for handle in handles if handle])


@pytest.fixture
async def overloaded(
    make_caller: MakeCaller, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Overloaded]:
    """An overloaded server: there is time to wait for one pair of permits, but not for two."""
    monkeypatch.setattr("app.service.applications.APPLY_DEADLINE_S", 60)
    pace = 2 / PAIR_S
    narrow = {"apply_token_qps": pace / full_pace(1, settings.cloud_jitter_ms / 1000), "request_deadline_s": 60}
    async with connected_server(settings.model_copy(update=narrow)) as client:
        live, next_ = [replace(await make_caller(f"GID_plant@@@d{number}"), client=client) for number in (1, 2)]
        assert (await live.token()).status == 200
        waiting = asyncio.create_task(next_.token())
        overloaded = Overloaded(client, make_caller, live, waiting)

        async def is_known() -> bool:
            return overloaded.services.applications.refusals(parse_scope("pub:a sub:b")).first != ""

        await until(is_known, "a queue that the instance knows of")
        yield overloaded
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_device_for_which_there_is_no_room_applies_for_nothing(overloaded: Overloaded) -> None:
    """It is refused at once, until a time behind all that wait."""
    device = await overloaded.device(3)
    assert await overloaded.applications() == 1
    assert PAIR_S <= retry_after_s(await device.token()) <= PAIR_S + STEP_S + NEAR_S
    assert await overloaded.applications() == 1
    assert not overloaded.waiting.done()


async def test_a_device_that_the_queue_refuses_is_not_held_up_for_longer_than_it_was_promised(
    overloaded: Overloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its application failed without a call, so what that leaves is gone before it can come back."""
    monkeypatch.setattr(overloaded.services.applications, "refusals", lambda _grant: MAY_APPLY)
    device = await overloaded.device(3)
    assert PAIR_S <= retry_after_s(await device.token()) <= PAIR_S + STEP_S + NEAR_S
    redis = overloaded.services.stores.redis.requests
    left_ms = [await redis.command("PTTL", key) for key in await redis.command("KEYS", "*:f:*")]
    assert len(left_ms) == 1 or min(left_ms) <= 1000


async def test_no_live_token_is_refused_however_many_are_asked_for(overloaded: Overloaded) -> None:
    """Only what would begin an application is refused, and not before Redis was asked whether it would."""
    device = await overloaded.device(3)
    asked = [each for _ in range(100) for each in (overloaded.live.token(), device.token())]
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers[::2]} == {200}
    assert {answer.status for answer in answers[1::2]} == {503}


async def test_devices_that_are_refused_come_back_one_after_another(overloaded: Overloaded) -> None:
    """Each is given a time of its own: as far apart as there are permits for them."""
    devices = [await overloaded.device(number) for number in range(3, 13)]
    answers = await asyncio.gather(*(device.token() for device in devices))
    after_s = sorted(map(retry_after_s, answers))
    steps_s = [later - earlier for earlier, later in itertools.pairwise(after_s)]
    assert all(abs(step_s - STEP_S) <= 1 for step_s in steps_s), after_s


async def test_a_device_that_does_not_wait_pushes_no_other_back(overloaded: Overloaded) -> None:
    """However often it asks, and for whatever scope, it is given the same time, and the next device the next one."""
    hasty, other = await overloaded.device(3), await overloaded.device(4)
    first_s = retry_after_s(await hasty.token())
    for number in range(10):
        assert first_s - NEAR_S <= retry_after_s(await hasty.token()) <= first_s
        assert first_s - NEAR_S <= retry_after_s(await hasty.token(scope=f"pub:plant/d3/up/{number}")) <= first_s
    assert first_s + STEP_S - NEAR_S <= retry_after_s(await other.token()) <= first_s + STEP_S + 1


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Parameters of a request for which every token of an hour is due for renewal, also a new one."""
    monkeypatch.setattr("app.service.issue.fresh_ms", lambda life_s: life_s * 1000)
    return {"expires_in": "3600"}


async def test_a_renewal_under_pressure_gets_the_live_token_at_once_and_the_application_goes_on(
    overloaded: Overloaded, due: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait in vain for a new token, and takes no time that another could be promised."""
    monkeypatch.setattr("app.service.issue.FALLBACK_PATIENCE_S", PAIR_S / 2)
    token = (await overloaded.live.token()).body
    before_s = retry_after_s(await (await overloaded.device(3)).token())
    with monkeypatch.context() as roomy:
        roomy.setattr("app.service.applications.APPLY_DEADLINE_S", 10 * PAIR_S)  # there is room for an application
        async with asyncio.timeout(PAIR_S / 3):
            assert (await overloaded.live.token(**due)).body["access_token"] == token["access_token"]
    assert await overloaded.applications() == 2
    assert not overloaded.waiting.done()
    assert retry_after_s(await (await overloaded.device(4)).token()) <= before_s + STEP_S + 1


async def test_a_renewal_for_which_there_is_no_room_is_no_refusal(overloaded: Overloaded, due: dict[str, str]) -> None:
    """The device gets its live token, and nothing is applied for."""
    token = (await overloaded.live.token()).body
    assert (await overloaded.live.token(**due)).body["access_token"] == token["access_token"]
    assert await overloaded.applications() == 1


async def test_a_renewal_is_refused_where_only_renewals_wait_for_too_long(
    overloaded: Overloaded, due: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a device without a token may apply: the renewal's application would be refused in the queue."""

    def refusal(action: str, count: int = 1, *, rank: CallRank, deadline: float) -> QuotaExhausted | None:
        return QuotaExhausted(action, deadline) if rank is CallRank.RENEWAL else None

    def start(*_arguments: Any, **_options: Any) -> None:
        pytest.fail("it applies")

    monkeypatch.setattr(overloaded.services.cloud, "refusal", refusal)
    monkeypatch.setattr(overloaded.services.applications, "start", start)
    token = (await overloaded.live.token()).body
    assert (await overloaded.live.token(**due)).body["access_token"] == token["access_token"]


async def test_a_renewal_in_calm_waits_for_its_new_token(
    caller: Caller, server: TestClient[Any, Any], cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live token would do, but a new one can be had in a moment."""
    monkeypatch.setattr("app.service.issue.FALLBACK_PATIENCE_S", 20.0)
    token = (await caller.token()).body
    server.app[SERVICES].stores.redis.clock.shift_ms = 3000 * 1000
    await cloud.move_clock(3000)
    await cloud.fault("ApplyToken", "hold", times=2)
    renewing = asyncio.create_task(caller.token(caller.assertion(exp=int(time.time()) + 3120)))
    await cloud.until_held(2)
    await cloud.release()
    renewed = await renewing
    assert renewed.status == 200
    assert renewed.body["access_token"] != token["access_token"]


async def test_a_device_without_a_token_goes_before_one_that_renews(
    caller: Caller, make_caller: MakeCaller, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one has nothing to work with; the other can go on for a while."""
    cloud: CloudClient = server.app[SERVICES].cloud
    apply_tokens = cloud.apply_tokens
    ranks: list[CallRank] = []

    async def applying(*arguments: Any, rank: CallRank, **options: Any) -> AppliedTokens:
        ranks.append(rank)
        return await apply_tokens(*arguments, rank=rank, **options)

    monkeypatch.setattr(cloud, "apply_tokens", applying)
    assert (await caller.token(expires_in="3000")).status == 200
    shift_s = 2800
    server.app[SERVICES].stores.redis.clock.shift_ms = shift_s * 1000
    later = int(time.time()) + shift_s + 60
    await caller.token(caller.assertion(exp=later), expires_in="3000")
    other = await make_caller("GID_plant@@@d2")
    await other.token(other.assertion(exp=later))
    assert ranks == [CallRank.FIRST, CallRank.RENEWAL, CallRank.FIRST]
    assert CallRank.FIRST < CallRank.RENEWAL


async def promise_far(server: TestClient[Any, Any]) -> None:
    """Have so many devices refused that the next one is given a time that no answer names otherwise."""
    services: Services = server.app[SERVICES]
    pace = full_pace(services.settings.qps["ApplyToken"], services.settings.cloud_jitter_ms / 1000)
    await services.promises.next_s("a crowd", math.ceil(FAR_S / 0.93 * pace))


@pytest.mark.parametrize("code", ["InternalError", "SystemOverflow", "ApplyTokenOverflow"])
async def test_a_device_whose_application_failed_is_given_the_promised_time(
    caller: Caller, server: TestClient[Any, Any], cloud: OwnCloud, code: str
) -> None:
    """Not that of the mark which the failure left: it passes earlier, and hides nothing."""
    await promise_far(server)
    await cloud.fault("ApplyToken", "error", code=code, times=None)
    for _ in range(2):
        assert retry_after_s(await caller.token()) == pytest.approx(FAR_S, abs=NEAR_S + 1)


async def test_a_device_whose_application_cannot_succeed_is_given_no_promised_time(
    caller: Caller, server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """Where only a person can mend it, its turn does not matter, and no place of another is taken."""
    await promise_far(server)
    await cloud.fault("ApplyToken", "error", code="PermissionCheckFailed", times=None)
    assert retry_after_s(await caller.token()) <= NEAR_S


async def test_a_device_whose_token_is_still_applied_for_is_given_the_promised_time(
    make_caller: MakeCaller, settings: Settings, cloud: OwnCloud
) -> None:
    """Its own time is over before the cloud has answered."""
    await cloud.fault("ApplyToken", "hang", times=None)
    caller = await make_caller()
    async with connected_server(settings.model_copy(update={"request_deadline_s": 1.0})) as server:
        await promise_far(server)
        answer = await replace(caller, client=server).token()
        assert "still being applied for" in answer.body["error_description"]
        assert retry_after_s(answer) == pytest.approx(FAR_S, abs=NEAR_S + 1)
    await cloud.clear()


async def test_no_jump_of_an_instances_clock_changes_anything(
    make_caller: MakeCaller, settings: Settings, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes ahead and back, under load: no request is refused, no life is another, no quota is exceeded."""
    wall_time, ahead_s = time.time, 0

    def jumping() -> float:
        caller = sys._getframe(1).f_globals["__name__"]
        return wall_time() + (0 if caller.startswith(("app.sandbox", "tests.")) else ahead_s)

    monkeypatch.setattr(time, "time", jumping)
    qps = 40
    await cloud.limit(qps={"ApplyToken": qps}, window="sliding")
    limited = settings.model_copy(update={"apply_token_qps": qps, "cloud_jitter_ms": 300})
    async with connected_server(limited) as server:
        callers = [replace(await make_caller(f"GID_plant@@@d{number}"), client=server) for number in range(6)]
        for life_s, jump_s in enumerate((0, 600, 0, -600, 0), start=3000):
            ahead_s = jump_s
            live = [caller.token() for caller in callers for _ in range(5)]
            new = [caller.token(expires_in=str(life_s)) for caller in callers]
            for answer in await asyncio.gather(*live, *new):
                assert answer.status == 200, answer
                assert 2900 <= answer.body["expires_in"] <= 3600
                assert abs(int(answer.headers["X-Timestamp"]) - wall_time()) <= NEAR_S
        assert set(await cloud.calls("ApplyToken")) == {"OK"}
