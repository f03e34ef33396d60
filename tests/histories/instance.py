"""An instance as ``app.assembly`` builds it, in this process, that can be killed between any two words to Redis."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from unittest import mock
from weakref import WeakSet

from aiohttp import web

from app.assembly import build
from app.model.grants import Grant
from app.model.policy import Policy
from app.service import delivery as delivering
from app.service.jobs import Jobs
from app.service.registry import Registry
from app.service.revocations import Revocations
from app.settings import Settings
from app.store.pipelined_connection import Command, PipelinedConnection
from app.store.records import ApplicationLease, CloudTokenOfType, TokenRequest
from app.store.redis_keys import Handle
from app.store.store import Store
from app.tasks import end
from app.web.route import SERVICES
from tests.waiting import connect_all

T = TypeVar("T")

_OWNER: ContextVar[Instance | None] = ContextVar("owner", default=None)
_COUNTED: ContextVar[bool] = ContextVar("counted", default=False)

QUICK: Final = {
    "app.service.revoke.CONFIRM_WITHIN_S": 0.0,
    "app.service.delivery.SEND_WITHIN_S": 5.0,
    "app.service.delivery.MAX_ATTEMPTS": 2,
    "app.service.jobs.TOKENS_PER_S": 1e9,
    "app.service.jobs.MIN_PAUSE_S": 0.0,
    "app.store.retry.FIRST_DELAY_S": 0.003,
    "app.store.retry.LAST_DELAY_S": 0.003,
}
"""Waits that would only make a history long."""


@dataclass(frozen=True)
class Death:
    """When an instance dies within an operation: before, or after, so many of its words to Redis had their effect."""

    command: int
    before: bool


class Dead(Exception):
    """The instance died before it answered."""


class Watcher(Protocol):
    """Observes what is applied for, and what the cloud gave."""

    def began(self, instance: Instance, lease: ApplicationLease) -> None:
        """Note that this instance applies now."""

    def arrived(self, handle: Handle, hashes: frozenset[str], expires_at_ms: int) -> None:
        """Note that the cloud tokens of ``handle`` came, by their SHA-256."""


def own_tasks(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task, as ``loop.set_task_factory`` wants it, that dies with the instance which began it."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
    if owner := _OWNER.get():
        owner.tasks.add(task)
    return task


@contextmanager
def driven_by_hand() -> Iterator[None]:
    """Let nothing be delivered and no job be worked on by itself: a history says when. Waits are short."""

    async def idle(_: object) -> None:
        await asyncio.Event().wait()

    with ExitStack() as stack:
        for kind, work in ((delivering.Delivery, "deliver_revocations"), (Jobs, "work_on_jobs")):
            stack.enter_context(mock.patch.object(kind, work, idle))
        for name, value in QUICK.items():
            stack.enter_context(mock.patch(name, value))
        yield


class Wire:
    """The way to Redis, which is cut where a history says so: then nothing comes back, and nothing goes out."""

    def __init__(self, store: Store) -> None:
        for client in (store.requests, store.permits, store.background, store.searches, store.polling):
            client.connection = _Cuttable(self, client.connection)
        self.cut = False
        self.death: Death | None = None
        self._asked = 0

    def count_to(self, death: Death | None) -> None:
        """Count from nought, up to a death."""
        self.death, self._asked = death, 0

    async def ask(self, connection: PipelinedConnection, commands: Sequence[Command]) -> list[Any]:
        """Ask as ``PipelinedConnection`` does. After its death no answer comes, as for a cancelled task."""
        # A script that Redis does not know yet is sent again; that is no other word.
        now = _COUNTED.get() and commands[0][0] != "EVAL" and self._is_time()
        self.cut |= bool(now and self.death and self.death.before)
        if self.cut:
            raise asyncio.CancelledError
        answers = await connection.ask(commands)
        self.cut |= now
        if self.cut:
            raise asyncio.CancelledError
        return answers

    def _is_time(self) -> bool:
        self._asked += 1
        return self.death is not None and self._asked == self.death.command


class _Cuttable(PipelinedConnection):
    """One of the connections of a wire."""

    def __init__(self, wire: Wire, connection: PipelinedConnection) -> None:
        self._wire = wire
        self._uncut = connection

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        return await self._wire.ask(self._uncut, commands)

    async def close(self) -> None:
        await self._uncut.close()


class Instance:
    """One server object: its own caches, applications, delivery and jobs."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.calls_out = 0
        """Calls of ApplyToken without an answer."""
        self.halves: dict[Handle, int] = {}
        """Of each own application, the calls that it takes."""
        self.looked: dict[Handle, int] = {}
        """When, by ``turn``, another instance's application was last seen under way."""
        self.waiting: dict[asyncio.Task[Any], Handle] = {}
        """Which application a request waits for."""
        self.turn = 0
        self._watcher = watcher
        self._app = build(settings)
        self._runner = web.AppRunner(self._app, handle_signals=False)
        self.parts = self._app[SERVICES].stores
        self.wire = Wire(self.parts.redis)

    async def open(self, shift_ms: int) -> None:
        """Start, at the time that a history has come to."""
        self.set_clock(shift_ms)
        await self.own(self._runner.setup())
        await self.own(connect_all(self.parts.redis))
        self.services = self._app[SERVICES]
        self.jobs: Jobs = self._app[SERVICES].jobs
        self.revocations: Revocations = self._app[SERVICES].revocations
        self.registry: Registry = self.revocations._registry
        self.delivery = self.services.revoker._delivery
        self.applications = self.services.issuer._applications
        self._watch_applications()

    def set_clock(self, shift_ms: int) -> None:
        """Set the clock so far ahead."""
        self.parts.redis.clock.shift_ms = shift_ms

    def set_policy(self, policy: Policy) -> None:
        """Put a policy in force, as reading its file again does."""
        self._app[SERVICES].policies._policy = policy

    def own(self, steps: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin what dies with this instance."""
        token = _OWNER.set(self)
        try:
            return asyncio.get_running_loop().create_task(steps)
        finally:
            _OWNER.reset(token)

    async def do(self, steps: Coroutine[Any, Any, T], death: Death | None = None) -> T:
        """Do something here to its end. Raises ``Dead`` if the instance died on the way."""
        self.wire.count_to(death)
        token = _COUNTED.set(True)
        try:
            task = self.own(steps)
        finally:
            _COUNTED.reset(token)
        await asyncio.wait([task])
        self.wire.count_to(None)
        if self.wire.cut:
            task.cancelled() or task.exception()
            raise Dead
        return task.result()

    async def deliver(self) -> bool:
        """Deliver the revocation whose turn it is; False if there is none."""
        queue = self.parts.queue
        for shard in await queue.next_shards():
            if claim := await queue.claim_revocation(shard):
                await self.delivery._deliver(claim, lambda: None)
                return True
        return False

    async def work(self, shards: int) -> bool:
        """Go through so many shards of each open job; False if nothing is left that is free."""
        for _ in range(shards):
            if not await self.jobs._work_on_each_job():
                return False
        return True

    async def kill(self) -> None:
        """End it as ``kill -9`` does: nothing more is sent to Redis, and what it knew is gone."""
        self.wire.cut = True
        await end([task for task in self.tasks if not task.done()])
        with suppress(asyncio.CancelledError):  # what would be sent at a clean end is not sent either
            await self._runner.cleanup()

    def calls_expected(self) -> int:
        """Return how many calls of ApplyToken are under way when each application has come as far as it can."""
        return sum(self.halves[handle] for handle in self.applications._own)

    def _watch_applications(self) -> None:
        """Observe all that a history judges by, and change nothing."""
        applications, tokens, cloud = self.applications, self.parts.tokens, self.applications._cloud
        start, wait_until_done, is_under_way, apply_tokens = (
            applications.start,
            applications.wait_until_done,
            tokens.is_under_way,
            cloud.apply_tokens,
        )
        store = tokens.store

        def starting(lease: ApplicationLease, grant: Grant, **options: Any) -> None:
            if lease.handle not in applications._own:
                self.halves[lease.handle] = len(grant.split())
                self._watcher.began(self, lease)
            start(lease, grant, **options)

        async def waiting(wanted: TokenRequest, application: Handle, until: float) -> None:
            request = asyncio.current_task()
            assert request is not None
            self.waiting[request] = application
            try:
                await wait_until_done(wanted, application, until)
            finally:
                del self.waiting[request]

        async def looking(wanted: TokenRequest, application: Handle) -> bool:
            turn = self.turn
            out = await is_under_way(wanted, application)
            if out:
                self.looked[application] = turn
            return out

        async def applying(halves: Sequence[Any], *arguments: Any, **options: Any) -> Any:
            self.calls_out += len(halves)
            try:
                return await apply_tokens(halves, *arguments, **options)
            finally:
                self.calls_out -= len(halves)

        async def storing(
            lease: ApplicationLease, obtained: tuple[CloudTokenOfType, ...], expires_at_ms: int, **options: Any
        ) -> Any:
            hashes = frozenset(sha256(each.token.reveal()) for each in obtained)
            self._watcher.arrived(lease.handle, hashes, expires_at_ms)
            return await store(lease, obtained, expires_at_ms, **options)

        replaced: tuple[tuple[object, str, Callable[..., Any]], ...] = (
            (applications, "start", starting),
            (applications, "wait_until_done", waiting),
            (tokens, "is_under_way", looking),
            (cloud, "apply_tokens", applying),
            (tokens, "store", storing),
        )
        for owner, name, function in replaced:
            assert callable(getattr(owner, name))  # a renamed method would be watched no more
            setattr(owner, name, function)


def sha256(cloud_token: str) -> str:
    """Return what the sandbox lists a cloud token by."""
    return hashlib.sha256(cloud_token.encode()).hexdigest()
