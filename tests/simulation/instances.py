"""Instances of the server without sockets: what decides about calls to the cloud, on one Redis in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.quota import Quota
from app.cloud.signed_calls import Noted
from app.model.secrets import AccessKeySecret
from app.service.applications import Applications
from app.service.audit import EventRecorder
from app.service.breaker_texts import BreakerTexts
from app.service.cloud_watch import CloudWatch
from app.service.pacing import Pacing
from app.service.retry_promises import RetryPromises
from app.store.audit import AuditStore, NewEntry
from app.store.clock import RedisClock
from app.store.quota import QuotaSettings, QuotaUsageReader, SharedQuota
from app.store.redis_keys import QUOTA_SERVER
from app.store.script import Script
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import running
from tests.simulation.lua_redis import LuaRedis

TO_REDIS_S: Final = 0.0005
"""How long a question is on its way to Redis, and its answer on the way back."""


class LuaClient:
    """Runs scripts as ``RedisClient`` does, on a Redis in memory whose time is the loop's."""

    def __init__(self, redis: LuaRedis, way_s: Callable[[], float] = lambda: TO_REDIS_S) -> None:
        """``way_s`` returns how long the next way there, or back, takes."""
        self._redis = redis
        self._way_s = way_s
        self.began_us = redis.now_us
        self._loop = asyncio.get_running_loop()

    async def run_script(self, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> Any:
        """Run ``script`` when the question has come to Redis."""
        await asyncio.sleep(self._way_s())
        self._redis.now_us = self.began_us + round(self._loop.time() * 1_000_000)
        answer = self._redis.run_script(script, keys, **arguments)
        await asyncio.sleep(self._way_s())
        return answer


def trusted_redis() -> LuaRedis:
    """Return an empty Redis that gives permits at once, as if the logs of permits had always been kept there."""
    redis = LuaRedis()
    redis.data[QUOTA_SERVER] = f"{redis.run_id} 0"
    return redis


def store_of(client: LuaClient) -> Store:
    """Return as much of a store as the quota uses."""
    return cast(Store, SimpleNamespace(permits=client, background=client, polling=client))


class _AuditInMemory:
    """Keeps the events."""

    def __init__(self) -> None:
        self.entries: list[NewEntry] = []

    async def append(self, entries: Sequence[NewEntry]) -> None:
        self.entries += entries


def client_of(
    quota: Quota, limits: QuotaSettings, clock: RedisClock, noted: Noted = lambda _outcome: None
) -> CloudClient:
    """Return the client of the cloud, which is not connected."""
    return CloudClient(
        endpoint="http://127.0.0.1",
        region="mq-internet-access",
        instance_id="post-cn-simulated",
        credentials=LastingCredentials(Credentials("id", AccessKeySecret("secret"), None)),
        quota=quota,
        now_ms=clock.now_ms,
        attempt_timeout_s=limits.attempt_timeout_s,
        noted=noted,
    )


@dataclass(frozen=True, eq=False)
class Instance:
    """What one instance asks before it answers a request for a token, and for its calls to the cloud."""

    pacing: Pacing
    applications: Applications
    promises: RetryPromises
    watch: CloudWatch


@asynccontextmanager
async def running_instances(count: int, redis: LuaRedis, limits: QuotaSettings) -> AsyncIterator[list[Instance]]:
    """Run so many instances."""
    client = LuaClient(redis)
    async with AsyncExitStack() as stack:
        instances = [_build(store_of(client), limits) for _ in range(count)]
        for each in instances:
            stack.push_async_callback(each.promises.close)
            stack.push_async_callback(each.pacing.close)
            await stack.enter_async_context(running(each.watch.report_regularly))
        yield instances


def _build(store: Store, limits: QuotaSettings) -> Instance:
    quota, clock = SharedQuota(store, limits=limits), RedisClock()
    watch = CloudWatch(
        quota,
        usage=QuotaUsageReader(store, limits=limits),
        recorder=EventRecorder(cast(AuditStore, _AuditInMemory())),
        clock=clock,
        texts=BreakerTexts("instance", limits.egress_group),
        attempt_timeout_s=limits.attempt_timeout_s,
    )
    pacing = Pacing(
        quota,
        attempt_timeout_s=limits.attempt_timeout_s,
        closed_for_s=watch.closed_for_s,
        reported_at=lambda: watch.reported_at,
        on_probe_unsent=watch.note_unsent_probe,
    )
    cloud = client_of(pacing, limits, clock, watch.note)
    applications = Applications(cast(Tokens, None), cloud, clock, lambda: None)
    return Instance(pacing, applications, RetryPromises(quota), watch)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let what the product leaves to chance be the same each time."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
