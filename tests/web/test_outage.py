from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from app.assembly import build
from app.service.registry import Registration, Registry
from app.settings import Settings
from app.web.route import SERVICES
from tests import processes
from tests.actors import CLI
from tests.callers import Answer, Caller
from tests.waiting import connect_all, until
from tests.web.conftest import ISSUER, POLICY, OwnCloud


def unavailable(answer: Answer) -> None:
    """Check for a 503 that says when to ask again."""
    assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable"), answer
    assert int(answer.headers["Retry-After"]) >= 1


FAULTS: list[dict[str, Any]] = [
    {"fault": "html"},
    {"fault": "half"},
    {"fault": "garbage"},
    {"fault": "drop"},
    {"fault": "error", "code": "InternalError"},
    {"fault": "error", "code": "SystemOverflow"},
    {"fault": "error", "code": "ApplyTokenOverflow"},
    {"fault": "error", "code": "PermissionCheckFailed"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault['fault']}-{fault.get('code', '')}")
async def test_whatever_the_cloud_answers_the_device_is_told_to_ask_again(
    caller: Caller, cloud: OwnCloud, fault: dict[str, Any]
) -> None:
    """No answer of the cloud becomes a denial, and service is back by itself when the cloud is."""
    await cloud.fault("ApplyToken", times=None, **fault)
    unavailable(await caller.token())
    unavailable(await caller.token())
    await cloud.clear()

    async def served() -> bool:
        return (await caller.token()).status == 200

    await until(served, "a token after the outage")


async def test_a_passing_fault_is_not_seen_at_all(caller: Caller, cloud: OwnCloud) -> None:
    """One failed half is retried alone: two cloud tokens are made for R and W, not three."""
    await cloud.fault("ApplyToken", "error", code="InternalError", times=1)
    assert (await caller.token()).status == 200
    assert await cloud.calls("ApplyToken") == {"InternalError": 1, "OK": 2}


async def test_a_half_that_was_had_in_vain_is_revoked(caller: Caller, cloud: OwnCloud) -> None:
    """When W can not be had, the R that was is not left behind; the answer names the probable cause."""
    await cloud.fault("ApplyToken", "error", code="PermissionCheckFailed", times=1)
    answer = await caller.token()
    unavailable(answer)
    assert "probably a permission, the parent topic or the group ID is missing" in answer.body["error_description"]
    await cloud.until_revoked(1)
    assert await cloud.unrevoked() == 0


async def test_during_an_outage_live_tokens_go_on_being_handed_out(
    caller: Caller, server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """A fresh token needs no cloud, and one that is no longer fresh is handed out when no new one can be had."""
    token = (await caller.token()).body
    await cloud.fault("ApplyToken", "error", code="InternalError", times=None)
    assert (await caller.token()).body["access_token"] == token["access_token"]
    server.app[SERVICES].stores.redis.clock.shift_ms = 3000 * 1000
    fallback = await aged(caller, 3000)
    assert fallback.body["access_token"] == token["access_token"]
    assert 0 < fallback.body["expires_in"] < 600
    server.app[SERVICES].stores.redis.clock.shift_ms = 3590 * 1000
    unavailable(await aged(caller, 3590))


async def aged(caller: Caller, seconds: int) -> Answer:
    """Ask for a token with an assertion of a later time."""
    return await caller.token(caller.assertion(exp=int(time.time()) + seconds + 120))


async def test_a_cloud_that_hangs_costs_no_caller_more_than_its_deadline(
    settings: Settings, registry: Registry, cloud: OwnCloud
) -> None:
    """The answer comes inside the deadline, with 503."""
    await cloud.fault("ApplyToken", "hang", times=None)
    added = await registry.add_device(Registration("GID_plant@@@d9"), actor=CLI)
    assert added.secret is not None
    hasty = settings.model_copy(update={"request_deadline_s": 1.5})
    async with TestClient(TestServer(build(hasty))) as client:
        caller = Caller(client, ISSUER, "GID_plant@@@d9", added.secret.reveal())
        started = asyncio.get_running_loop().time()
        unavailable(await caller.token())
        assert asyncio.get_running_loop().time() - started < 3
    await cloud.clear()


async def test_without_redis_nothing_is_issued_and_it_comes_back_alone(settings: Settings, tmp_path: Path) -> None:
    """Fail closed: 503 and a reason in /readyz while Redis is away; service within a second of its return."""
    state = tmp_path / "own"
    with processes.running_valkey(state) as url:
        own = settings.model_copy(update={"redis_url": type(settings.redis_url)(url)})
        client = TestClient(TestServer(build(own)))
        await client.start_server()
        services = client.app[SERVICES]
        await connect_all(services.stores.redis)
        registry = Registry(services.stores.devices, services.policies, services.stores.redis.clock)
        added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
        assert added.secret is not None
        caller = Caller(client, ISSUER, "GID_plant@@@d1", added.secret.reveal())
        token = (await caller.token()).body
    unavailable(await caller.token())
    unavailable(await caller.introspect(token["handle"]))
    async with client.get("/readyz") as response:
        assert response.status == 503
        health = await response.json()
        assert (health["status"], health["checks"]["redis"]["status"]) == ("not ready", "not ready")
        assert "REDIS_URL" in health["checks"]["redis"]["cure"]
    async with client.get("/healthz") as response:
        assert response.status == 200
    with processes.running_valkey(state):
        again = await caller.token()
        assert (again.status, again.body.get("access_token")) == (200, token["access_token"])
        async with client.get("/readyz") as response:
            assert response.status == 200
            health = await response.json()
            assert (health["status"], health["checks"]["redis"]["status"]) == ("ready", "ready")
            assert "always" in health["checks"]["redis"]["detail"]
        await client.close()


async def test_a_redis_restart_in_mid_application_loses_no_request(
    settings: Settings, cloud: OwnCloud, tmp_path: Path
) -> None:
    """Waiters go on waiting, the application goes on storing, and it costs one ApplyToken for each half."""
    state = tmp_path / "own"
    with processes.running_valkey(state) as url:
        own = settings.model_copy(update={"redis_url": type(settings.redis_url)(url)})
        client = TestClient(TestServer(build(own)))
        await client.start_server()
        services = client.app[SERVICES]
        await connect_all(services.stores.redis)
        registry = Registry(services.stores.devices, services.policies, services.stores.redis.clock)
        added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
        assert added.secret is not None
        caller = Caller(client, ISSUER, "GID_plant@@@d1", added.secret.reveal())
        await cloud.fault("ApplyToken", "hold", times=2)
        requests = [asyncio.create_task(caller.token()) for _ in range(10)]

        async def all_wait() -> bool:
            return len(await services.stores.redis.requests.command("KEYS", "*:j:*")) == len(requests)

        await until(all_wait, "every request's assertion used")
        await cloud.until_held(2)
    with processes.running_valkey(state):
        await cloud.release()
        answers = await asyncio.gather(*requests)
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body["access_token"] for answer in answers}) == 1
        assert await cloud.applied() == 2
        await client.close()


async def test_a_changed_policy_counts_and_a_wrong_one_does_not(
    caller: Caller, server: TestClient[Any, Any], policy_file: Path
) -> None:
    """A narrower policy takes effect without a restart; a wrong file is refused and reported in /readyz."""
    assert (await caller.token(scope="sub:plant/all")).status == 200
    policies = server.app[SERVICES].policies
    policy_file.write_text(POLICY.replace(', "plant/all"]', "]"))
    await policies.read_if_changed()
    answer = await caller.token(scope="sub:plant/all")
    assert (answer.status, answer.body["error"]) == (400, "invalid_scope")
    policy_file.write_text(POLICY + "\n[roles.sensor]\n")
    await policies.read_if_changed()
    assert (await caller.token(scope="sub:plant/d1/down/#")).status == 200
    async with server.get("/readyz") as response:
        assert response.status == 200
        health = await response.json()
        assert health["status"] == health["checks"]["policy"]["status"] == "degraded"
        assert "policy_refused" in health["checks"]["policy"]["cure"]
    policy_file.write_text(POLICY)
    await policies.read_if_changed()
    assert (await caller.token(scope="sub:plant/all")).status == 200
