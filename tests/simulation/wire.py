"""Connections to the cloud without sockets, and instances that call over them as the product does.

Delays are as bad as a test wants them: those of Redis and of connecting, the time that a step of an instance takes, the
pauses of a whole instance, and the way of a call to the cloud within its jitter. Times are loop time in seconds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from app.cloud.answers import RawAnswer
from app.cloud.client import CloudClient
from app.cloud.permit_connector import CloudConnection, PermitConnector
from app.model.calls import CallRank
from app.model.grants import TokenType
from app.model.topics import parse_filter
from app.service.pacing import Pacing
from app.store.clock import RedisClock
from app.store.quota import PermitGrant, PermitQuestion, QuotaSettings, SharedQuota
from app.tasks import end
from tests.simulation.instances import LuaClient, client_of, seeded, store_of, trusted_redis
from tests.simulation.lua_redis import LuaRedis
from tests.virtual_time import run_virtual, virtual_loop

ACTION: Final = "ApplyToken"
_ANSWER: Final = RawAnswer(200, {}, "application/json", b'{"RequestId": "1", "Token": "LzMT+XLFI5s/YWJ/MIDz4t=="}')
_HALVES: Final = [(type_, [parse_filter("fleet/#")]) for type_ in (TokenType.R, TokenType.W)]

ANSWERED_IN_S: Final = 0.05
CALL_WITHIN_S: Final = 8.0


@dataclass(frozen=True)
class Pause:
    """An instance does nothing from ``at`` on for ``seconds``."""

    instance: int
    at: float
    seconds: float

    def left_s(self, instance: int, now: float) -> float:
        """Return how much longer an instance is paused."""
        is_paused = instance == self.instance and self.at <= now < self.at + self.seconds
        return self.at + self.seconds - now if is_paused else 0.0


@dataclass(frozen=True)
class Delays:
    """How slow everything is: each of these is the longest delay."""

    redis_s: float = 0.001
    """To Redis, and as much back."""
    connect_s: float = 0.005
    step_s: float = 0.0
    """From having a permit to writing; no other step of any instance runs meanwhile."""
    pauses: Sequence[Pause] = ()
    turns: Sequence[float] = ()
    """Up to the first of these times all that is not a step takes longest, then it takes no time; and so on."""

    def share_at(self, now: float, chance: random.Random) -> float:
        """Return how much of the longest delay there is now."""
        is_slow = sum(turn <= now for turn in self.turns) % 2 == 0
        return chance.uniform(0.9, 1) if is_slow and self.turns else chance.uniform(0, 0.1 if self.turns else 1)


@dataclass
class Wire:
    """What instances were given and what they sent, and when that arrived, if the shortest way takes no time."""

    limits: QuotaSettings
    delays: Delays
    chance: random.Random
    taken: list[float] = field(default_factory=list)
    """When permits were taken."""
    sent: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)

    def send(self) -> None:
        """Let a call go."""
        now = virtual_loop().time()
        self.sent.append(now)
        self.arrived.append(now + self.limits.jitter_s * self.delays.share_at(now, self.chance))

    def delay_s(self, instance: int, longest_s: float) -> float:
        """Return how long an instance waits for what takes ``longest_s`` at most: at least to the end of its pause."""
        now = virtual_loop().time()
        paused_s = max((each.left_s(instance, now) for each in self.delays.pauses), default=0.0)
        return max(paused_s, longest_s * self.delays.share_at(now, self.chance))

    def most_in_a_second(self) -> int:
        """Return the most calls that arrived within any second."""
        arrived, most, first = sorted(self.arrived), 0, 0
        for last, at in enumerate(arrived):
            while at - arrived[first] >= 1:
                first += 1
            most = max(most, last - first + 1)
        return most


class _Connection:
    """A connection that is always open."""

    is_open = True

    def __init__(self, wire: Wire, instance: int) -> None:
        self._wire = wire
        self._instance = instance

    def write(self, _form: bytes) -> None:
        self._wire.send()

    async def read_answer(self, *, deadline: float) -> RawAnswer:
        await asyncio.sleep(ANSWERED_IN_S + self._wire.delay_s(self._instance, 0))
        return _ANSWER


class _Connector:
    """Makes connections to the wire."""

    def __init__(self, wire: Wire, instance: int) -> None:
        self._wire = wire
        self._instance = instance

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def connections(
        self, count: int, *, within_s: float, on_closed: Callable[[], None]
    ) -> AsyncIterator[Sequence[CloudConnection]]:
        await asyncio.sleep(self._wire.delay_s(self._instance, self._wire.delays.connect_s))
        yield cast(list[CloudConnection], [_Connection(self._wire, self._instance) for _ in range(count)])


class _NotedQuota(SharedQuota):
    """Notes when permits were taken."""

    def __init__(self, wire: Wire, client: LuaClient) -> None:
        super().__init__(store_of(client), limits=wire.limits)
        self._wire = wire
        self._began_us = client.began_us

    async def take_permits(self, action: str, question: PermitQuestion) -> PermitGrant:
        grant = await super().take_permits(action, question)
        self._wire.taken += [(grant.taken_at_us - self._began_us) / 1_000_000] * grant.permits
        return grant


def saturate(wire: Wire, *, instances: int, callers: int, seconds: float, pair_every: int | None = None) -> None:
    """Have so many callers at each instance apply for tokens all the time, each ``pair_every``-th for two at once."""
    with seeded(1):
        run_virtual(_saturate(wire, instances, callers, seconds, pair_every))


async def _saturate(wire: Wire, instances: int, callers: int, seconds: float, pair_every: int | None) -> None:
    redis = trusted_redis()
    async with AsyncExitStack() as stack:
        tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(end, tasks)
        for instance in range(instances):
            pacing, client = _instance(wire, redis, instance)
            stack.push_async_callback(pacing.close)
            for number in range(callers):
                halves = 2 if pair_every and number % pair_every == 0 else 1
                tasks.append(asyncio.create_task(_apply_forever(client, wire, halves=halves)))
        await asyncio.sleep(seconds)
        await end(tasks)


def _instance(wire: Wire, redis: LuaRedis, instance: int) -> tuple[Pacing, CloudClient]:
    client = LuaClient(redis, lambda: wire.delay_s(instance, wire.delays.redis_s))
    pacing = Pacing(_NotedQuota(wire, client), attempt_timeout_s=wire.limits.attempt_timeout_s)
    cloud = client_of(pacing, wire.limits, RedisClock())
    cloud._calls._connector = cast(PermitConnector, _Connector(wire, instance))
    return pacing, cloud


async def _apply_forever(cloud: CloudClient, wire: Wire, *, halves: int) -> None:
    loop = virtual_loop()

    def expires_at_ms() -> int:
        loop.use(wire.delays.step_s * wire.delays.share_at(loop.time(), wire.chance))
        return cloud._now_ms() + 3_600_000

    while True:
        applied = await cloud.apply_tokens(
            _HALVES[:halves], expires_at_ms, rank=CallRank.FIRST, deadline=loop.time() + CALL_WITHIN_S
        )
        if applied.errors:
            await asyncio.sleep(wire.chance.uniform(0, 1))
