"""One connection to Redis on which many commands are under way at a time.

What is asked in one turn of the event loop leaves as one write, so a busy instance, and Redis, make fewer system calls.

Why no answer reaches the wrong caller: a command is written once, never again, and an answer belongs to the oldest
command without one, whether or not its caller still waits. Where that order may be lost (a connection is lost, an
answer is overdue, or comes unasked) the session ends, and with it all commands under way. Each may have run or not; its
caller gets an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, ResponseError

from app.tasks import end

ANSWER_WITHIN_S: Final = 2.0
CHECK_EVERY_S: Final = 0.25
"""How late an overdue answer may be noticed: one periodic check costs less than a timer for each command."""

Command = tuple[str | int, ...]
"""The words of one command, as they are sent."""

Connect = Callable[[], AbstractConnection]
"""Makes a connection that is not opened yet, with neither retries nor timeouts of its own."""

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]
"""Runs a coroutine."""


class PipelinedConnection:
    """The connection, opened when something is asked, and opened again after a fault."""

    def __init__(self, connect: Connect, *, run: Run | None = None) -> None:
        """Open connections by ``connect``, one at a time; ``run`` runs what reads and writes, and may count it."""
        self._connect = connect
        self._run = run or _run
        self._session: _Session | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, at least one, in one go and return their answers; one that Redis refuses has the error.

        Raises ``redis.exceptions.ConnectionError`` when there is no answer within two seconds, or never will be.
        """
        if self._session is None or self._session.over:
            self._session = _Session(self._connect(), self._run)
        return await self._session.ask(commands)

    async def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self._session:
            await end([self._session.task])
            # A task that is cancelled before its first step has no chance to do this.
            self._session.fail_pending(LostConnection("closed"))


async def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await work()


@dataclass(slots=True)
class _PendingReply:
    """The answers to commands that were sent together."""

    expected: int
    due: float
    result: asyncio.Future[list[Any]]
    answers: list[Any] = field(default_factory=list)


class _Session:
    """The connection from its opening to its first fault, which fails every command under way."""

    def __init__(self, connection: AbstractConnection, run: Run) -> None:
        self._connection = connection
        self._run = run
        self._outgoing: list[bytes] = []
        self._has_outgoing = asyncio.Event()
        self._pending: deque[_PendingReply] = deque()
        self._loop = asyncio.get_running_loop()
        self.over = False
        self.task = asyncio.create_task(self._keep_open(), name="redis")

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        self._outgoing += [hiredis.pack_command(words) for words in commands]  # type: ignore[arg-type]
        self._has_outgoing.set()
        reply = _PendingReply(len(commands), self._loop.time() + ANSWER_WITHIN_S, self._loop.create_future())
        self._pending.append(reply)
        return await reply.result

    def fail_pending(self, fault: Exception) -> None:
        self.over = True
        while self._pending:
            reply = self._pending.popleft()
            if not reply.result.done():
                reply.result.set_exception(LostConnection(f"{type(fault).__name__}: {fault}"))

    async def _keep_open(self) -> None:
        fault: Exception = LostConnection("closed")
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._connection.connect()  # type: ignore[no-untyped-call]
            async with asyncio.TaskGroup() as group:
                for work in (self._write, self._read, self._check_overdue):
                    group.create_task(self._run(work))
        except* (RedisError, OSError) as faults:
            fault = faults.exceptions[0]
        finally:
            self.fail_pending(fault)
            await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            batch, self._outgoing = self._outgoing, []
            await self._connection.send_packed_command(batch, check_health=False)

    async def _read(self) -> None:
        while True:
            try:
                answer = await self._connection.read_response()
            except ResponseError as refusal:
                answer = refusal
            if not self._pending:
                raise LostConnection("an answer to no command")
            reply = self._pending[0]
            reply.answers.append(answer)
            if len(reply.answers) == reply.expected:
                self._pending.popleft()
                if not reply.result.done():
                    reply.result.set_result(reply.answers)

    async def _check_overdue(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if self._pending and self._pending[0].due < self._loop.time():
                raise TimeoutError(f"no answer in {ANSWER_WITHIN_S:g} s")
