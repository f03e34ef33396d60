"""``python -m tests.benchmarks.revocation [--tokens N]``: benchmarks revocation and prints a table.

Two instances, Valkey with ``appendfsync always`` and a cloud that answers at once, all as processes. Measured are: the
time from the response to a revocation until another instance denies the token; the time that a job takes to queue N
revocations, and the slowdown of cached token requests meanwhile; the size of a queued revocation in Redis; and how
close to the quota two instances drain the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from app.assembly import open_admin_services
from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.logs import configure_logging
from app.model.actors import Actor
from app.model.devices import Algorithm, ClientId, Device, methods_of
from app.model.grants import TokenType
from app.model.secrets import AccessKeySecret, CloudToken
from app.model.selections import Selection
from app.service.delivery import Delivery
from app.service.pacing import Pacing
from app.settings import Settings
from app.store.audit import AuditStore
from app.store.jobs import Job
from app.store.quota import QuotaSettings, SharedQuota, full_pace
from app.store.records import ApplicationLease, CloudTokenOfType, RequestResult, TokenRequest
from app.store.redis_keys import Shard
from app.store.revocations import RevocationQueue
from app.store.sealing import SealingKeys
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import end
from tests import processes
from tests.benchmarks import site, worker
from tests.benchmarks.meter import on_core
from tests.callers import Caller

ISSUER: Final = "http://127.0.0.1:1"
ROUNDS: Final = 300
DENIED_DEVICES: Final = 4
LOAD_DEVICES: Final = 64
LOAD_REQUESTS: Final = 3000
CONCURRENCY: Final = 16
AT_ONCE: Final = 200
LIFE_S: Final = 24 * 3600
DRAIN_QPS: Final = 100.0
DRAIN_S: Final = 12.0
LATENCY_S: Final = 0.2
ROLE: Final = "fleet"

Row = tuple[str, str, str]
"""The name of a measure, its value, and the required value."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.revocation", description="Measures revoking.")
    parser.add_argument("--tokens", type=int, default=100_000, help="live tokens that are revoked by role")
    tokens: int = parser.parse_args().tokens
    configure_logging("error")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        state = Path(directory)
        with contextlib.ExitStack() as stack:
            with on_core(site.OTHERS):
                redis_url = stack.enter_context(processes.running_valkey(state))
                cloud, tls = processes.free_ports(2)
                certificate, _ = site.write_certificates(state)
                site.start(stack, state, cloud, "tests.benchmarks.cloud", json.dumps([cloud, tls, str(certificate)]))
            env = site.settings(redis_url, f"http://127.0.0.1:{cloud}", 0) | {"ISSUER_URL": ISSUER}
            devices = asyncio.run(site.register(Settings.load(env), DENIED_DEVICES + LOAD_DEVICES))
            with instances(state, env) as ports:
                rows += uvloop.run(denial(devices[:DENIED_DEVICES], ports))
            env |= {"REVOKE_TOKEN_QPS": "5"}
            for count in (1, 2):
                with instances(state, env, count) as ports:
                    rows += uvloop.run(queueing(Settings.load(env), devices[DENIED_DEVICES:], ports, state, tokens))
            rows += uvloop.run(drain(Settings.load(env)))
    width = max(len(row[0]) for row in rows)
    for what, figure, wanted in rows:
        print(f"{what:{width}}  {figure:>26}  {wanted}")


@contextlib.contextmanager
def instances(state: Path, env: Mapping[str, str], count: int = 2) -> Iterator[list[int]]:
    """Run one or two instances, each on its own core, and yield their ports."""
    ports = processes.free_ports(count)
    with contextlib.ExitStack() as stack:
        for port, core in zip(ports, (site.MEASURED, site.OTHERS), strict=False):
            with on_core(core):
                site.start(stack, state, port, "app", "serve", env={**env, "PORT": str(port)})
        yield ports


async def denial(devices: site.Devices, ports: list[int]) -> list[Row]:
    """Revoke at one instance, and introspect at the other at once."""
    took_ms = []
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{ports[0]}") as one,
        aiohttp.ClientSession(f"http://127.0.0.1:{ports[1]}") as other,
    ):
        for number in range(ROUNDS):
            device = devices[number % len(devices)]
            here, there = (Caller(each, ISSUER, device["client_id"], device["secret"]) for each in (one, other))
            issued = await there.token()
            if issued.status != 200:
                raise RuntimeError(f"no token: {issued}")
            token = issued.body
            form = there.form(token=token["access_token"])
            answer = await here.revoke(token["handle"])
            began = time.perf_counter()
            denied = await there.post("/oauth/introspect", form)
            took_ms.append((time.perf_counter() - began) * 1000)
            if answer.status != 200 or denied.body != {"active": False}:
                raise RuntimeError(f"not denied: {answer} {denied}")
    took_ms.sort()
    figure = f"{statistics.median(took_ms):.1f} / {took_ms[int(len(took_ms) * 0.99)]:.1f} ms"
    return [("revoke answered -> denied by another, p50 / p99", figure, "p99 < 10 ms")]


async def queueing(settings: Settings, devices: site.Devices, ports: list[int], state: Path, count: int) -> list[Row]:
    """Write a fleet's tokens, then revoke them by role while the first instance serves cached token requests."""
    path = state / "devices.json"
    path.write_text(json.dumps({"issuer": ISSUER, "devices": devices}))
    job_of = {"port": ports[0], "path": "/oauth/token", "devices": str(path), "concurrency": CONCURRENCY, "meters": {}}
    with on_core(site.OTHERS), worker.started("tests.benchmarks.load") as load:

        async def rate(requests: int = LOAD_REQUESTS) -> float:
            result = await asyncio.to_thread(load.do, **job_of, count=requests)
            return float(result["requests"] / result["seconds"])

        async with Redis.from_url(settings.redis_url.reveal()) as client:
            empty = await used_memory(client)
            began = time.monotonic()
            await stock(settings, count)
            sys.stderr.write(f"stocked {count} tokens in {time.monotonic() - began:.0f} s\n")
            stocked = await used_memory(client)
            await rate()  # applies for the load's tokens
            before = [await rate() for _ in range(3)]
            job, during, took_s = await revoke(settings, rate)
            queued = await used_memory(client)
            after = [await rate() for _ in range(3)]
    usual, meanwhile = statistics.mean(before + after), statistics.mean(during)
    return [
        (f"queueing {job.queued} revocations, {len(ports)} at work", f"{took_s:.1f} s", "100,000 < 30 s"),
        (
            "cached token requests a second, and meanwhile",
            f"{usual:.0f} -> {meanwhile:.0f}, {1 - meanwhile / usual:.0%} slower",
            "<= 25 %",
        ),
        ("a live token in Redis", f"{(stocked - empty) / count:.0f} bytes", ""),
        ("a queued revocation beside it", f"{(queued - stocked) / count:+.0f} bytes", "stated"),
    ]


async def revoke(settings: Settings, rate: Any) -> tuple[Job, list[float], float]:
    """Start the job and measure the load until it is done."""
    during = []
    async with open_admin_services(settings, actor=Actor("cli:bench")) as office:
        counted = await office.revocations.count_tokens(Selection.of_role(ROLE))
        began = time.monotonic()
        job = await office.jobs.start_job(Selection.of_role(ROLE), actor=Actor("cli:bench"), counted=counted)
        while not job.done_at_ms:
            during.append(await rate(LOAD_REQUESTS // 3))
            job = await office.jobs.get_job(job.id)
        took_s = (job.done_at_ms - job.created_at_ms) / 1000
    if job.queued != counted:
        raise RuntimeError(f"{counted} counted, {job.queued} queued in {time.monotonic() - began:.0f} s")
    return job, during[:-1] or during, took_s


async def used_memory(client: Redis) -> int:
    """Return the memory that Redis uses, in bytes."""
    return int((await client.info("memory"))["used_memory"])


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Store, Tokens]]:
    """Open a store and its tokens."""
    store = Store(settings.redis_url)
    await store.learn_time()
    yield store, Tokens(store, SealingKeys.parse(settings.sealing_keys), max_live=16, max_new_per_hour=120)
    await store.close()


async def stock(settings: Settings, count: int) -> None:
    """Write live tokens to Redis by the scripts that issue them, without a cloud."""
    async with opened(settings) as (store, tokens):

        async def issue(number: int) -> None:
            client_id = ClientId(f"GID_fleet@@@d{number}")
            device = Device(client_id, Algorithm.HS256, methods_of(Algorithm.HS256), epoch="1")
            await store.requests.command("HSET", Shard.of(client_id).device(client_id), "epoch", "1")
            scope = f"pub:fleet/d{number}/up/#"
            wanted = TokenRequest(device=device, role=ROLE, scope=scope, life_s=LIFE_S, fresh_ms=0, spare_ms=0)
            answer = await tokens.request(wanted, request="r", jti="", used_until_ms=0)
            assert isinstance(answer, RequestResult)
            pair = (CloudTokenOfType(TokenType.W, CloudToken(f"{number:0300}")),)
            expires_at_ms = store.clock.now_ms() + LIFE_S * 1000 - number
            await tokens.store(
                ApplicationLease(wanted, answer.application, "r"),
                pair,
                expires_at_ms,
                whole=True,
                actor=Actor("device:test"),
            )

        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*(issue(number) for number in range(first, min(count, first + AT_ONCE))))


async def drain(settings: Settings) -> list[Row]:
    """Drain the queue with two instances and a slow cloud, and measure when its calls arrive."""
    arrivals: list[float] = []

    async def handle(_: web.Request) -> web.Response:
        arrivals.append(time.monotonic())
        await asyncio.sleep(LATENCY_S)
        return web.json_response({"RequestId": "r"})

    app = web.Application()
    app.router.add_post("/", handle)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app))
        tasks = []
        limits = QuotaSettings({"RevokeToken": DRAIN_QPS}, egress_qps=300, egress_group="all")
        pace = full_pace(DRAIN_QPS, limits.jitter_s)
        for _ in range(2):
            store, tokens = await stack.enter_async_context(opened(settings))
            buckets = SharedQuota(store, limits=limits)
            quota = Pacing(buckets)
            stack.push_async_callback(quota.close)
            client = await stack.enter_async_context(open_client(str(server.make_url("/")), quota, store))
            delivery = Delivery(RevocationQueue(store), tokens, client, audit=AuditStore(store), pace=pace)
            tasks.append(asyncio.create_task(delivery.deliver_revocations()))
        await asyncio.sleep(DRAIN_S)
        await end(tasks)
    arrivals = [at for at in arrivals if at > arrivals[0] + 1]
    held = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) / pace
    fullest = max(sum(at <= other < at + 1 for other in arrivals) for at in arrivals)
    return [
        (
            f"drain at a quota of {DRAIN_QPS:.0f} a second, answers in {LATENCY_S * 1000:.0f} ms",
            f"{held:.1%}",
            ">= 99 %",
        ),
        ("its fullest second", f"{fullest} calls", f"<= {DRAIN_QPS:.0f}"),
    ]


def open_client(url: str, quota: Pacing, store: Store) -> contextlib.AbstractAsyncContextManager[CloudClient]:
    """Open a client of the cloud at that URL."""
    return CloudClient(
        endpoint=url,
        region="cn-hangzhou",
        instance_id="mqtt-bench",
        credentials=LastingCredentials(Credentials("bench-key", AccessKeySecret("bench-secret"))),
        quota=quota,
        now_ms=store.clock.now_ms,
    ).connect()


if __name__ == "__main__":
    main()
