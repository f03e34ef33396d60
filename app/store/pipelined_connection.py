"""One connection to Redis for all that this instance asks: questions go out in turn, answers come back in turn.

What is asked in one turn of the event loop leaves as one write, so a busy instance, and Redis, are called less often.

Why nothing can go wrong with it: a question is written once, never again. An answer belongs to the oldest question that
has none yet, whether or not somebody still waits for it. Where that order could be in doubt (a connection lost, an
answer overdue or unasked for) the connection's life ends, and with it every question under way: it may have taken
effect, or not, and the caller is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, ResponseError

from app.tasks import end

ANSWER_WITHIN_S: Final = 2.0
LOOK_EVERY_S: Final = 0.25
"""How late it may be noticed that an answer is overdue: one look costs less than a timer for each question."""

Command = tuple[str | int, ...]
"""The words of one command, as they are sent."""


class PipelinedConnection:
    """The connection, opened when something is asked and opened anew after a fault."""

    def __init__(self, connect: Callable[[], AbstractConnection]) -> None:
        """``connect`` makes a connection that is not opened yet, with neither retries nor timeouts of its own."""
        self._connect = connect
        self._life: _Session | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one go and return their answers; one that Redis refuses is answered by the error.

        Raises ``redis.exceptions.ConnectionError`` when there is no answer within two seconds, or never will be.
        """
        if not commands:
            return []
        if self._life is None or self._life.over:
            self._life = _Session(self._connect())
        return await self._life.ask(commands)

    async def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self._life:
            await end([self._life.task])


@dataclass(slots=True)
class _PendingReply:
    """Commands sent together, and who waits for their answers."""

    expected: int
    due: float
    waiting: asyncio.Future[list[Any]]
    answers: list[Any] = field(default_factory=list)


class _Session:
    """One life of the connection: from its opening to its first fault, which fails every question under way."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._outgoing: list[bytes] = []
        self._any_outgoing = asyncio.Event()
        self._under_way: deque[_PendingReply] = deque()
        self._loop = asyncio.get_running_loop()
        self.over = False
        self.task = asyncio.create_task(self._live(), name="redis")

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        self._outgoing += [hiredis.pack_command(words) for words in commands]  # type: ignore[arg-type]
        self._any_outgoing.set()
        question = _PendingReply(len(commands), self._loop.time() + ANSWER_WITHIN_S, self._loop.create_future())
        self._under_way.append(question)
        return await question.waiting

    async def _live(self) -> None:
        fault: Exception = LostConnection("closed")
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._connection.connect()  # type: ignore[no-untyped-call]
            async with asyncio.TaskGroup() as group:
                for work in (self._write, self._read, self._watch):
                    group.create_task(work())
        except* (RedisError, OSError) as faults:
            fault = faults.exceptions[0]
        finally:
            self.over = True
            for question in self._under_way:
                if not question.waiting.done():
                    question.waiting.set_exception(LostConnection(f"{type(fault).__name__}: {fault}"))
            await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        while True:
            await self._any_outgoing.wait()
            self._any_outgoing.clear()
            batch, self._outgoing = self._outgoing, []
            await self._connection.send_packed_command(batch, check_health=False)

    async def _read(self) -> None:
        while True:
            try:
                answer = await self._connection.read_response()
            except ResponseError as refusal:
                answer = refusal
            if not self._under_way:
                raise LostConnection("an answer that nobody asked for")
            question = self._under_way[0]
            question.answers.append(answer)
            if len(question.answers) == question.expected:
                self._under_way.popleft()
                if not question.waiting.done():
                    question.waiting.set_result(question.answers)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._under_way and self._under_way[0].due < self._loop.time():
                raise TimeoutError(f"no answer in {ANSWER_WITHIN_S:g} s")
