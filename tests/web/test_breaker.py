"""Three instances and a cloud that does not answer: their calls stop, single attempts are made, and service returns."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import pytest
from aiohttp.test_utils import TestClient
from structlog.testing import capture_logs

from app.service.registry import Registration
from app.settings import Settings
from app.store.redis_keys import OPERATORS_AUDIT, report_keys
from app.tasks import end
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.gates import Gate, GateState, open_gate
from tests.service.test_operators import audit_lines
from tests.waiting import until
from tests.web.conftest import ISSUER, OwnCloud, connected_server

pytestmark = pytest.mark.timeout(90)

INSTANCES: Final = 3
ALL: Final = range(INSTANCES)


@dataclass
class Fleet:
    """Instances, each with its own way to the cloud."""

    servers: list[TestClient[Any, Any]]
    gates: list[Gate]
    live: list[Caller]
    """A device with a live token, as a caller of each instance."""
    answers: list[Counter[int]] = field(default_factory=lambda: [Counter() for _ in ALL])
    """The answers to devices without a live token, by instance."""
    live_answers: Counter[int] = field(default_factory=Counter)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def become(self, state: GateState, *at: int) -> None:
        """Change the way to the cloud, of all instances if none is named."""
        for number in at or ALL:
            await self.gates[number].become(state)

    def scopes(self) -> list[str]:
        """Return whose breaker each instance knows to be open."""
        return [server.app[SERVICES].cloud_watch.status.scope for server in self.servers]

    async def until_scopes(self, *scopes: str) -> None:
        """Wait until the instances know these breakers to be open."""

        async def known() -> bool:
            return self.scopes() == list(scopes)

        await until(known, f"breakers {scopes}", within_s=40)

    async def new_caller(self, at: int) -> Caller:
        """Register a device that calls an instance."""
        client_id = f"GID_plant@@@n{next(self._numbers)}"
        added = await self.servers[at].app[SERVICES].registry.add_device(Registration(client_id), actor=CLI)
        assert added.secret is not None
        return Caller(self.servers[at], ISSUER, client_id, added.secret.reveal())

    async def ready(self, at: int) -> tuple[int, dict[str, Any]]:
        """Return what /readyz answers."""
        async with self.servers[at].get("/readyz") as response:
            return response.status, await response.json()

    async def events(self) -> list[str]:
        """Return what happened to the breaker, by the audit."""
        stores = self.servers[0].app[SERVICES].stores
        return [what for _, what, _ in await audit_lines(stores.redis, OPERATORS_AUDIT) if "breaker" in what]

    @asynccontextmanager
    async def demand(self) -> AsyncIterator[None]:
        """Have devices ask for tokens at every instance all the time: one with a live token, and new ones."""
        tasks = [asyncio.create_task(step(at)) for at in ALL for step in (self._ask_for_new, self._ask_for_live)]
        try:
            yield
        finally:
            await end(tasks)

    async def _ask_for_new(self, at: int) -> None:
        while True:
            caller = await self.new_caller(at)
            answer = await caller.token()
            self.answers[at][answer.status] += 1
            assert answer.status == 200 or int(answer.headers["Retry-After"]) >= 1
            await asyncio.sleep(0.05)

    async def _ask_for_live(self, at: int) -> None:
        while True:
            self.live_answers[(await self.live[at].token()).status] += 1
            await asyncio.sleep(0.05)


@pytest.fixture
async def fleet(settings: Settings, cloud: OwnCloud) -> AsyncIterator[Fleet]:
    """Three instances in service."""
    async with AsyncExitStack() as stack:
        port = int(cloud.url.rpartition(":")[2])
        gates = [await stack.enter_async_context(open_gate(port)) for _ in ALL]
        servers = [
            await stack.enter_async_context(
                connected_server(settings.model_copy(update={"cloud_endpoint": gate.url, "request_deadline_s": 5.0}))
            )
            for gate in gates
        ]
        fleet = Fleet(servers, gates, [])
        first = await fleet.new_caller(0)
        fleet.live = [replace(first, client=server) for server in servers]
        assert (await first.token()).status == 200
        yield fleet


@pytest.mark.parametrize("state", ["refusing", "dropping", "hanging"])
async def test_a_cloud_that_does_not_answer_is_left_alone_until_it_does(fleet: Fleet, state: GateState) -> None:
    """Its calls stop within seconds and go on by themselves; live tokens are served all the time, also meanwhile."""
    async with fleet.demand():
        await fleet.become(state)
        await fleet.until_scopes("group", "group", "group")
        for at in ALL:
            status, health = await fleet.ready(at)
            assert (status, health["status"], health["checks"]["cloud"]["status"]) == (200, "degraded", "degraded")
            assert "the cloud does not answer" in health["checks"]["cloud"]["detail"]
            assert "network" in health["checks"]["cloud"]["cure"]
        refused = await (await fleet.new_caller(1)).token()
        assert (refused.status, refused.body["error"]) == (503, "temporarily_unavailable")
        await fleet.become("open")
        await fleet.until_scopes("", "", "")
        served = [answers[200] for answers in fleet.answers]

        async def is_served() -> bool:
            return all(answers[200] > before for answers, before in zip(fleet.answers, served, strict=True))

        await until(is_served, "new tokens at every instance")
    assert set(fleet.live_answers) == {200}
    assert await fleet.events() == ["breaker_opened", "breaker_closed"]


async def test_calls_into_a_dead_cloud_are_few(fleet: Fleet) -> None:
    """Once they have stopped, one instance tries at a time: one pair of calls, after 2 s, then after 5 s."""
    services = fleet.servers[0].app[SERVICES]
    async with fleet.demand():
        await fleet.become("dropping")
        await fleet.until_scopes("group", "group", "group")
        open_s = (services.clock.now_ms() - services.cloud_watch.status.opened_at_ms) / 1000
        opened_at = asyncio.get_running_loop().time() - open_s
        attempts: list[float] = []

        async def tried_twice() -> bool:
            # A call that had its permit already may arrive just after calls were stopped.
            calls = sorted(at for gate in fleet.gates for at in gate.calls if at > opened_at + 0.5)
            attempts[:] = [at for before, at in pairwise([opened_at, *calls]) if at - before > 1]
            assert len(calls) <= 2 * len(attempts)
            return len(attempts) >= 2

        await until(tried_twice, "two attempts", within_s=30)
        first, second = attempts[:2]
        assert first - opened_at >= 2 * 0.8
        assert second - first >= 5 * 0.8
    assert sum(len(gate.calls) for gate in fleet.gates) < 200


async def test_a_cloud_that_refuses_connections_is_seldom_tried(fleet: Fleet) -> None:
    """Each instance tries to connect once for each API whose callers wait, after 2 s, then after 5 s."""
    loop = asyncio.get_running_loop()
    async with fleet.demand():
        await fleet.become("refusing")
        await fleet.until_scopes("group", "group", "group")
        began = loop.time()

        async def is_over() -> bool:
            return loop.time() > began + 6

        with capture_logs() as logs:
            await until(is_over, "six seconds", every_s=0.1)
    tried = [line for line in logs if line["event"] == "cloud_call_failed"]
    # Once more for calls that were about to connect when calls were stopped.
    assert len(tried) <= INSTANCES * 2 * 3


async def test_when_the_instance_that_tries_dies_another_one_does(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease on the attempt ends after the time of a call and a second."""
    redis = fleet.servers[0].app[SERVICES].stores.redis.requests
    watches = [server.app[SERVICES].cloud_watch for server in fleet.servers]
    holders: list[int] = []

    async def is_held() -> bool:
        name = await redis.command("HGET", report_keys("all", "")["group_breaker"], "holder")
        holders[:] = [at for at in ALL if watches[at]._quota.name == name]
        return bool(holders)

    async with fleet.demand():
        await fleet.become("dropping")
        await fleet.until_scopes("group", "group", "group")
        await fleet.become("hanging")
        await until(is_held, "an attempt under way")
        [dead] = holders
        monkeypatch.setattr(watches[dead], "report_calls", _never)
        others = [at for at in ALL if at != dead]
        await fleet.become("open", *others)

        async def is_served() -> bool:
            return {fleet.scopes()[at] for at in others} == {""} and all(fleet.answers[at][200] for at in others)

        for at in others:
            fleet.answers[at].clear()
        await until(is_served, "new tokens at the others", within_s=50)


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_an_instance_without_a_network_stops_its_own_calls_alone(fleet: Fleet) -> None:
    """It is degraded, not out of service: it hands out live tokens; and the others go on as if nothing were."""
    async with fleet.demand():
        await fleet.become("refusing", 2)
        await fleet.until_scopes("", "", "instance")
        status, health = await fleet.ready(2)
        assert (status, health["status"]) == (200, "degraded")
        assert "this instance alone cannot reach the cloud (CannotConnect)" in health["checks"]["cloud"]["detail"]
        assert (await fleet.ready(0))[1]["status"] == "ready"
        assert (await (await fleet.new_caller(0)).token()).status == 200
        assert (await (await fleet.new_caller(2)).token()).status == 503
        await fleet.become("open", 2)
        await fleet.until_scopes("", "", "")
    assert set(fleet.live_answers) == {200}
    assert set(fleet.answers[0]) | set(fleet.answers[1]) == {200}
    assert await fleet.events() == ["breaker_opened", "breaker_closed"]


async def test_a_cloud_that_answers_is_never_left_alone(fleet: Fleet, cloud: OwnCloud) -> None:
    """Whatever it answers, and for longer than it takes to stop calls to one that does not."""
    for number, fault in enumerate(("garbage", "noise", "html", "throttle")):
        await cloud.fault("ApplyToken", fault, times=None, rate=1 / (5 - number))
    await cloud.fault("ApplyToken", "error", code="InternalError", times=None)
    over_at = asyncio.get_running_loop().time() + 3

    async def over() -> bool:
        assert fleet.scopes() == ["", "", ""]
        return asyncio.get_running_loop().time() > over_at

    async with fleet.demand():
        await until(over, "three seconds without a right answer", every_s=0.05)
    assert not any(answers[200] for answers in fleet.answers)
    assert set(fleet.live_answers) == {200}
    assert await fleet.events() == []
    calls = await cloud.calls("ApplyToken")
    assert len(calls) >= 3, calls
