"""The promises that several instances make together, with processes killed at the worst moment."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import aiohttp
import pytest

from app.assembly import open_admin_services
from app.cli import setup
from app.model.actors import Actor
from app.model.devices import Device
from app.service.registry import Registration, Registry
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.processes import Dev, running_dev, wait_until
from tests.waiting import until

LEASE_S = 3
DEADLINE_S = 10


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Two instances, one Valkey, one sandbox: all processes of their own."""
    with running_dev(tmp_path_factory.mktemp("across") / "state", "--instances", "2") as dev:
        yield dev


@dataclass
class Site:
    """A running site, and a new device that calls each of its instances."""

    dev: Dev
    cloud: Cloud
    registry: Registry
    device: Device
    callers: tuple[Caller, Caller]


@pytest.fixture
async def site(dev: Dev, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """The site with all of its parts running, and a device of this test's own."""
    settings = setup.settings(dev.state)
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(aiohttp.ClientSession(instance["url"]))
            for instance in dev.json["instances"]
        ]
        control = await stack.enter_async_context(aiohttp.ClientSession())
        for session in sessions:
            await until(partial(ready, session), "both instances ready")
        office = await stack.enter_async_context(open_admin_services(settings, actor=Actor("cli:test")))
        registry = office.registry
        added = await registry.add_device(Registration(f"GID_plant@@@t{time.monotonic_ns()}"), actor=CLI)
        assert added.secret is not None
        key = added.secret.reveal()
        callers = [Caller(session, dev.json["issuer"], added.device.client_id, key) for session in sessions]
        cloud = Cloud(dev.json["sandbox"], control)
        await cloud.clear()
        await cloud.forget_calls()
        yield Site(dev, cloud, registry, added.device, (callers[0], callers[1]))
        await cloud.clear()


async def ready(session: aiohttp.ClientSession) -> bool:
    """Tell whether an instance is of use."""
    try:
        async with session.get("/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def test_two_hundred_requests_at_two_instances_cost_one_call_a_cloud_token(site: Site) -> None:
    """However many ask, at however many instances, each cloud token is applied for once."""
    await site.cloud.fault("ApplyToken", "hold", times=2)
    requests = [asyncio.create_task(site.callers[number % 2].token()) for number in range(200)]
    await site.cloud.until_held(2)
    await site.cloud.release()
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["access_token"] for answer in answers}) == 1
    assert await site.cloud.calls("ApplyToken") == {"OK": 2}


async def test_waiters_outlive_a_leader_killed_in_mid_application(site: Site) -> None:
    """When the leading instance is killed, another takes over when the lease ends, inside the waiters' deadline."""
    await site.cloud.fault("ApplyToken", "hold", times=2)
    led = asyncio.create_task(site.callers[0].token())
    await site.cloud.until_held(2)
    waiting = [asyncio.create_task(site.callers[1].token()) for _ in range(20)]
    killed = site.dev.json["instances"][0]["pid"]
    started = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await led
    answers = await asyncio.gather(*waiting)
    assert time.monotonic() - started < DEADLINE_S
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["access_token"] for answer in answers}) == 1
    assert (await site.cloud.calls("ApplyToken")).get("OK") == 2


@pytest.mark.parametrize("change", ["revoke_device", "disable_device", "rotate_key"])
async def test_a_change_during_an_application_holds_at_every_instance(site: Site, change: str) -> None:
    """What was begun before a revoke, a disable or a re-key is handed out nowhere, and revoked at the cloud."""
    before = await site.cloud.unrevoked()
    await site.cloud.fault("ApplyToken", "hold", times=2)
    requests = [asyncio.create_task(caller.token()) for caller in site.callers]
    await site.cloud.until_held(2)
    held_back = {each["sha256"] for each in await site.cloud.tokens()}
    await getattr(site.registry, change)(site.device.client_id, actor=CLI)
    await site.cloud.release()
    answers = await asyncio.gather(*requests)
    if change == "revoke_device":
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body["access_token"] for answer in answers}) == 1
    else:
        assert {answer.status for answer in answers} == {401}
    left = before + (2 if change == "revoke_device" else 0)

    async def settled() -> bool:
        return await site.cloud.unrevoked() == left

    await until(settled, "the overtaken tokens revoked at the cloud")
    assert len({each["sha256"] for each in await site.cloud.tokens()} - held_back) >= 2


async def test_a_revoke_answered_by_one_instance_holds_at_the_other(site: Site) -> None:
    """Both had it cached a moment ago; neither hands it out again."""
    token = (await site.callers[0].token()).body
    assert (await site.callers[1].token()).body["access_token"] == token["access_token"]
    assert (await site.callers[0].revoke(token["access_token"])).status == 200
    assert (await site.callers[1].introspect(token["access_token"])).body == {"active": False}
    for caller in site.callers:
        assert (await caller.token()).body["access_token"] != token["access_token"]


async def test_redis_killed_during_an_application_loses_nothing(site: Site) -> None:
    """Valkey is killed and started again while the cloud holds the calls: every waiting request gets the one token."""
    await site.cloud.fault("ApplyToken", "hold", times=2)
    requests = [asyncio.create_task(caller.token()) for caller in site.callers for _ in range(10)]
    await site.cloud.until_held(2)
    killed = site.dev.json["pids"]["redis"]
    os.kill(killed, signal.SIGKILL)
    await asyncio.to_thread(
        wait_until, lambda: site.dev.json["pids"]["redis"] != killed, "Valkey started again", within_s=10
    )
    await site.cloud.release()
    answers = await asyncio.gather(*requests)
    served = [answer for answer in answers if answer.status == 200]
    # A request that was not waiting yet when Redis went is told to ask again; it is never answered wrongly.
    assert {answer.status for answer in answers} <= {200, 503}
    assert len(served) >= len(answers) / 2
    assert len({answer.body["access_token"] for answer in served}) == 1
    assert await site.cloud.applied() == 2


async def test_a_revocation_survives_the_instance_that_answered_it(site: Site) -> None:
    """The cloud is down when it is answered, and the instance is killed: another delivers it."""
    token = (await site.callers[0].token()).body
    await site.cloud.fault("RevokeToken", "error", code="InternalError", times=None)
    answer = await site.callers[0].revoke(token["handle"])
    assert answer.status == 200
    assert answer.body["broker"].startswith("still valid at the broker")
    os.kill(site.dev.json["instances"][0]["pid"], signal.SIGKILL)
    before = await site.cloud.unrevoked()
    await site.cloud.clear()

    async def delivered() -> bool:
        return await site.cloud.unrevoked() <= before - 2

    await until(delivered, "the revocation delivered by the other instance", within_s=45)
