"""No revocation is lost, whatever dies at the worst moment: three instances, Valkey and the sandbox, each a process."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import aiohttp
import pytest
from redis.asyncio import Redis

from app.assembly import AdminServices, open_admin_services
from app.cli import setup
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.selections import Selection
from app.service.audit import AuditFilter
from app.service.registry import Registration
from app.store.jobs import Job
from app.store.records import TokenRecord
from app.store.redis_keys import ALL_SHARDS, Shard, job_work_key, permit_keys
from tests.actors import CLI
from tests.benchmarks.takeback import settle
from tests.callers import Caller, read
from tests.clouds import Cloud
from tests.processes import Dev, alive, running_dev
from tests.waiting import until

ALL: Final = (0, 1, 2)
LONG_MS: Final = 60_000
"""Longer than every claim, lease and back-off."""

TIME_PASSES: Final = """#!lua flags=allow-oom
for _, key in ipairs(KEYS) do
  local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    redis.call('ZADD', key, 'XX', math.max(0, members[i + 1] - ARGV[1]), members[i])
  end
end
"""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Three instances, one Valkey, one sandbox: all processes of their own."""
    state = tmp_path_factory.mktemp("faults") / "state"
    settle(state, qps=500)
    with running_dev(state, "--instances", str(len(ALL))) as dev:
        yield dev


@dataclass(frozen=True)
class Held:
    """A token that a device holds, made of one cloud token."""

    device: Caller
    handle: str
    sha256: str


@dataclass(frozen=True)
class Site:
    """A running site, and what a test does to it."""

    dev: Dev
    cloud: Cloud
    office: AdminServices
    redis: Redis
    sessions: tuple[aiohttp.ClientSession, ...]

    async def token(self, at: int = 0) -> Held:
        """Have a new device ask an instance for a token."""
        client_id = f"GID_plant@@@f{next(_numbers)}"
        added = await self.office.registry.add_device(Registration(client_id), actor=CLI)
        assert added.secret is not None
        device = Caller(self.sessions[at], self.dev.json["issuer"], client_id, added.secret.reveal())
        answer = await device.token()
        assert answer.status == 200, answer
        [part] = answer.body["mqtt"]["tokens"]
        return Held(device, answer.body["handle"], hashlib.sha256(part["token"].encode()).hexdigest())

    def pid(self, at: int) -> int:
        """Return an instance's process ID."""
        return int(self.dev.json["instances"][at]["pid"])

    @asynccontextmanager
    async def frozen(self, *instances: int) -> AsyncIterator[None]:
        """Let instances stand still for the block; whatever goes wrong in it, they all go on afterwards."""
        with ExitStack() as stack:
            for pid in [self.pid(at) for at in instances]:
                stack.callback(os.kill, pid, signal.SIGCONT)
                os.kill(pid, signal.SIGSTOP)
            yield

    async def record(self, held: Held) -> TokenRecord:
        """Return what is known of a token."""
        return await self.office.revocations.get_token(held.handle)

    async def field(self, held: Held, name: str) -> str:
        """Return a field of its record; empty if there is none."""
        shard = Shard.of(held.device.client_id)
        return str(await self.redis.hget(shard.token(held.handle), name) or "")

    async def audited(self, held: Held) -> list[str]:
        """Return what the audit says about a token, in order, without the start and end of a job that revoked it."""
        page = await self.office.audit_log.search_events(AuditFilter(handle=held.handle))
        return [entry.what for entry in reversed(page.entries) if not entry.what.startswith("job_")]

    async def queues_of(self, held: Held) -> list[str]:
        """Return the queues that it stands in."""
        shard = Shard.of(held.device.client_id)
        keys = (shard.queue, shard.delayed, shard.failed)
        return [key for key in keys if await self.redis.zscore(key, held.handle) is not None]

    async def active(self, held: Held, at: int) -> bool:
        """Tell what an instance says of a token to its device."""
        answer = await replace(held.device, client=self.sessions[at]).introspect(held.handle)
        assert answer.status == 200, answer
        return bool(answer.body["active"])

    async def time_passes(self, job: str = "") -> None:
        """Bring every claim, lease and back-off of the queues to its end, as so much time would."""
        keys = [shard.delayed for shard in ALL_SHARDS] + ([job_work_key(job)] if job else [])
        await self.redis.eval(TIME_PASSES, len(keys), *keys, LONG_MS)

    async def until_tried(self, held: Held, times: int) -> None:
        """Wait until so many deliveries of it were in vain."""

        async def tried() -> bool:
            return await self.field(held, "tries") == str(times)

        await until(tried, f"{times} deliveries in vain")

    async def until_confirmed(self, *tokens: Held, job: str = "", quickly: bool = True) -> None:
        """Wait for the cloud's word on tokens.

        ``quickly``: with time passing again and again, so that a claim may lapse while its worker calls the cloud.
        """

        async def confirmed() -> bool:
            if quickly:
                await self.time_passes(job)
            return all([(await self.record(held)).revocation == "confirmed" for held in tokens])

        await until(confirmed, "the revocations confirmed")

    async def until_nothing_is_queued(self) -> None:
        """Wait until all that another test revoked is over."""

        async def nothing() -> bool:
            await self.time_passes()
            return (await self.office.revocations.queue_overview()).queued == 0

        await until(nothing, "an empty queue")

    async def revoked_there(self) -> set[str]:
        """Return the hashes of all that the cloud holds as revoked."""
        return {each["sha256"] for each in await self.cloud.tokens() if each["revoked"]}

    async def until_ready(self) -> None:
        """Wait until all instances are of use, and ``dev.json`` names their processes.

        One that was restarted answers a little before ``dev.json`` has its new process ID.
        """

        async def ready() -> bool:
            try:
                answering = [await self._is_ready(session) for session in self.sessions]
            except aiohttp.ClientError:
                return False
            return all(answering) and all(map(alive, self.dev.pids))

        await until(ready, "all instances ready")

    @staticmethod
    async def _is_ready(session: aiohttp.ClientSession) -> bool:
        async with session.get("/readyz") as answer:
            return answer.status == 200

    async def withhold_permits(self) -> None:
        """Let no instance have a permit for RevokeToken for now."""
        seconds, microseconds = await self.redis.time()
        now_us = seconds * 1_000_000 + microseconds
        keys = permit_keys("RevokeToken", "all", "")
        # As if the cloud had throttled all calls for hours: the pace is next to nothing, and the next permit due late.
        await self.redis.set(keys["pace"], f"0.000001 0.000001 {now_us}")
        await self.redis.set(keys["api_state"], f"{now_us + 12_000_000} 0 0")

    async def grant_permits(self) -> None:
        """Let them have permits again."""
        keys = permit_keys("RevokeToken", "all", "")
        await self.redis.delete(keys["pace"], keys["api_state"])


@pytest.fixture
async def site(dev: Dev) -> AsyncIterator[Site]:
    """The site with all of its parts running, and a cloud that counts from nought."""
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(aiohttp.ClientSession(instance["url"]))
            for instance in dev.json["instances"]
        ]
        control = await stack.enter_async_context(aiohttp.ClientSession())
        settings = setup.settings(dev.state)
        redis = await stack.enter_async_context(Redis.from_url(settings.redis_url.reveal(), decode_responses=True))
        cloud = Cloud(dev.json["sandbox"], control)
        await cloud.clear()
        await cloud.limit(preset="off")
        office = await stack.enter_async_context(open_admin_services(settings, actor=Actor("cli:test")))
        site = Site(dev, cloud, office, redis, tuple(sessions))
        await site.until_ready()
        await site.until_nothing_is_queued()
        await cloud.forget_calls()
        yield site
        await cloud.clear()
        await site.grant_permits()
        await redis.config_set("maxmemory", 0)


async def test_a_kill_between_the_commit_and_the_call_loses_nothing(site: Site) -> None:
    """The instance dies having answered and called nobody: it is denied everywhere, and another makes the one call."""
    held = await site.token(at=0)
    async with site.frozen(1, 2):
        await site.withhold_permits()
        answer = await held.device.revoke(held.handle)
        assert answer.status == 200
        assert answer.body["broker"].startswith("still valid at the broker")
        assert await site.queues_of(held) == [Shard.of(held.device.client_id).delayed], "claimed, and no more"
        os.kill(site.pid(0), signal.SIGKILL)
        assert await site.cloud.calls("RevokeToken") == {}
    await site.grant_permits()
    assert [await site.active(held, at) for at in (1, 2)] == [False, False]
    await site.time_passes()
    await site.until_confirmed(held, quickly=False)
    assert held.sha256 in await site.revoked_there()
    assert await site.cloud.calls("RevokeToken") == {"OK": 1}


async def test_a_kill_between_the_call_and_its_record_doubles_nothing(site: Site) -> None:
    """The cloud has revoked it and the instance dies before it knows: another asks again, and it is confirmed once."""
    held = await site.token(at=1)
    there = await site.revoked_there()
    await site.cloud.fault("RevokeToken", "hold")
    async with site.frozen(0, 2):
        revoking = asyncio.create_task(held.device.revoke(held.handle))
        await site.cloud.until_held(1)
        os.kill(site.pid(1), signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await revoking
        await site.cloud.release("RevokeToken")
        await site.cloud.until_revoked(len(there) + 1)
        assert await site.revoked_there() == {*there, held.sha256}
        assert (await site.record(held)).revocation == "queued"
    await site.time_passes()
    await site.until_confirmed(held, quickly=False)
    assert await site.cloud.calls("RevokeToken") == {"OK": 2}
    assert await site.audited(held) == ["granted", "revoked", "confirmed"]


async def test_a_job_outlives_two_of_three_instances(site: Site) -> None:
    """Those that work on it are killed on the way; what is left ends it, each token revoked and counted once."""
    tokens = await asyncio.gather(*(site.token(at % 3) for at in range(60)))
    before = await site.revoked_there()

    async def start() -> Job:
        job = await site.office.revocations.revoke_selection(Selection.of_role("fleet"), actor=Actor("cli:test"))
        assert isinstance(job, Job)
        return job

    async with site.frozen(0):
        async with site.frozen(1, 2):
            job = await start()

        async def on_its_way() -> bool:
            return (await site.office.jobs.get_job(job.id)).shards_done > 3

        await until(on_its_way, "the job on its way")
        for at in (1, 2):
            os.kill(site.pid(at), signal.SIGKILL)
        left = await site.office.jobs.get_job(job.id)
        assert left.done_at_ms == 0
        assert left.shards_done < left.shards

    async def settled() -> bool:
        await site.time_passes(job.id)
        return (await site.office.jobs.get_job(job.id)).settled

    await until(settled, "the job settled")
    done = await site.office.jobs.get_job(job.id)
    assert (done.queued, done.confirmed, done.failed) == (len(tokens), len(tokens), 0)
    assert await site.revoked_there() - before == {held.sha256 for held in tokens}
    for held in tokens:
        assert await site.audited(held) == ["granted", "revoked", "confirmed"]


async def test_redis_killed_during_revokes_keeps_what_was_answered(site: Site) -> None:
    """After its restart each answered revoke stands, and each unanswered one is whole or was never made."""
    tokens = await asyncio.gather(*(site.token(at % 3) for at in range(60)))
    await site.cloud.fault("RevokeToken", "error", code="ServiceUnavailable", times=None)
    key = (await site.office.api_keys.add_api_key(f"service-{next(_numbers)}", [Right.ADMIN], actor=CLI)).text.reveal()
    answered: dict[str, int] = {}
    waiting = iter(tokens)

    async def revoke_one_after_another(session: aiohttp.ClientSession) -> None:
        for held in waiting:
            body, headers = {"handle": held.handle}, {"Authorization": f"Bearer {key}"}
            async with session.post("/api/revocations", json=body, headers=headers) as response:
                answered[held.handle] = (await read(response)).status

    old = site.dev.json["pids"]["redis"]
    os.kill(site.dev.process.pid, signal.SIGSTOP)  # who would start it again at once
    try:
        revoking = [asyncio.create_task(revoke_one_after_another(session)) for session in site.sessions * 2]
        await until(partial(_enough, answered), "some revokes answered")
        os.kill(old, signal.SIGKILL)
        await asyncio.gather(*revoking)
    finally:
        os.kill(site.dev.process.pid, signal.SIGCONT)
    assert set(answered.values()) == {200, 503}

    async def back() -> bool:
        return bool(site.dev.json["pids"]["redis"] != old)

    await until(back, "Redis started again")
    await site.until_ready()
    for held in tokens:
        record = await site.record(held)
        assert record.state == "revoked" or answered[held.handle] == 503, "answered, and lost"
        indexed = await site.redis.zscore(Shard.of(held.device.client_id).index, held.handle) is not None
        whole = ("revoked", 1, False) if record.state == "revoked" else ("live", 0, True)
        assert (record.state, len(await site.queues_of(held)), indexed) == whole, "done by half"
    await site.cloud.clear()
    revoked = [held for held in tokens if (await site.record(held)).state == "revoked"]
    await site.until_confirmed(*revoked)
    assert {held.sha256 for held in revoked} <= await site.revoked_there()


async def _enough(answered: dict[str, int]) -> bool:
    return len(answered) >= 8


async def test_a_full_redis_does_not_stop_revoking(site: Site) -> None:
    """Nothing new is issued, and a token, a device and a role are revoked, delivered and confirmed all the same."""
    one, other, *rest = await asyncio.gather(*(site.token() for _ in range(6)))
    await site.redis.config_set("maxmemory", 1)
    refused = await one.device.token(scope=f"pub:fleet/{one.device.client_id.rpartition('@')[2]}/new")
    assert (refused.status, refused.body["error"]) == (503, "temporarily_unavailable")
    assert (await one.device.revoke(one.handle)).status == 200
    await site.office.registry.revoke_device(other.device.client_id, actor=CLI)
    job = await site.office.revocations.revoke_selection(Selection.of_role("fleet"), actor=Actor("cli:test"), counted=4)
    assert isinstance(job, Job)
    await site.until_confirmed(one, other, *rest, job=job.id)
    assert {held.sha256 for held in (one, other, *rest)} <= await site.revoked_there()


async def test_an_outage_of_the_cloud_is_outlived(site: Site) -> None:
    """Timeouts, then Overflow, then 500, each for longer than a delivery tries: it is never given up."""
    held = await site.token()
    for fault, times in (
        ({"fault": "hang"}, 2),
        ({"fault": "throttle"}, 3),
        ({"fault": "error", "code": "InternalError"}, 3),
    ):
        await site.cloud.fault("RevokeToken", **fault, times=times)
    assert (await held.device.revoke(held.handle)).status == 200
    for times in (1, 2, 3):
        await site.until_tried(held, times)
        await site.time_passes()
    await site.until_confirmed(held, quickly=False)
    assert await site.field(held, "tries") == "4"
    assert await site.field(held, "attempts") == "1"
    calls = await site.cloud.calls("RevokeToken")
    assert calls["OK"] == 1
    assert calls["RevokeTokenOverflow"] == calls["InternalError"] == 3
    assert await site.audited(held) == ["granted", "revoked", "confirmed"]


async def test_a_token_that_the_cloud_does_not_know_is_gone(site: Site) -> None:
    """Revoked by a call whose answer was lost, it is unknown to the next: QueryToken says it is invalid, and it is."""
    held = await site.token()
    await site.cloud.fault("RevokeToken", "half")
    await site.cloud.fault("RevokeToken", "error", code="ParameterCheckFailed")
    assert (await held.device.revoke(held.handle)).status == 200
    await site.until_confirmed(held, quickly=False)
    assert (await site.cloud.calls("RevokeToken")).get("ParameterCheckFailed") == 1
    assert await site.cloud.calls("QueryToken") == {"OK": 1}
    assert await site.field(held, "tries") == "1"


async def test_a_token_that_the_cloud_wrongly_calls_unknown_is_not_given_up(site: Site) -> None:
    """What QueryToken calls valid is still to be revoked, whatever RevokeToken said."""
    held = await site.token()
    await site.cloud.fault("RevokeToken", "error", code="ParameterCheckFailed")
    assert (await held.device.revoke(held.handle)).status == 200
    await site.until_tried(held, 1)
    assert (await site.record(held)).revocation == "queued"
    await site.until_confirmed(held)
    assert await site.field(held, "tries") == "2"
    assert held.sha256 in await site.revoked_there()


@pytest.mark.parametrize("late", ["confirmed", "queued"])
async def test_the_late_word_of_a_paused_holder_changes_nothing(site: Site, late: str) -> None:
    """Paused in its call until another had confirmed: what it then has to say neither undoes nor doubles that."""
    held = await site.token(at=0)
    said = _log_of(site.dev, 0)
    await site.cloud.fault("RevokeToken", "hold" if late == "confirmed" else "hang")
    revoking: asyncio.Task[Any]
    async with site.frozen(1, 2):
        revoking = asyncio.create_task(held.device.revoke(held.handle))
        await site.cloud.until_held(1)
    async with site.frozen(0):
        await site.until_confirmed(held)
        if late == "queued":
            await site.cloud.clear()
            await site.cloud.fault("RevokeToken", "error", code="PermissionCheckFailed")
        else:
            await site.cloud.release("RevokeToken")
    assert (await revoking).status == 200

    async def told() -> bool:
        line = "revocation_postponed" if late == "queued" else "overtaken"
        return any(line in each and held.handle in each for each in said())

    await until(told, "the late word")
    assert (await site.record(held)).revocation == "confirmed"
    assert await site.queues_of(held) == []
    assert await site.audited(held) == ["granted", "revoked", "confirmed"]

    async def confirmations() -> int:
        lines = [line for at in ALL for line in _log_of(site.dev, at, whole=True)() if held.handle in line]
        return len([line for line in lines if '"what": "confirmed"' in line])

    await until(confirmations, "the confirmation in the log")
    assert await confirmations() == 1


def _log_of(dev: Dev, at: int, *, whole: bool = False) -> Callable[[], list[str]]:
    """Return what reads the lines that an instance logs from now on."""
    path = dev.state / "logs" / f"instance-{at}.log"
    begin = 0 if whole else path.stat().st_size
    return lambda: path.read_bytes()[begin:].decode().splitlines()
