"""Commands and scripts over one connection to Redis."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from app.errors import Unavailable
from app.model.text import _
from app.store.clock import RedisClock
from app.store.pipelined_connection import Command, PipelinedConnection
from app.store.script import Script


class RedisClient:
    """Sends commands and scripts, each once.

    No command is sent twice by itself: a script whose answer was lost may have run. A caller that may send again does
    so knowingly (``retry_until``).
    """

    def __init__(self, connection: PipelinedConnection, clock: RedisClock, *, most_at_once: int = sys.maxsize) -> None:
        """Send over ``connection``, up to ``most_at_once`` commands together; scripts run by the shift of ``clock``."""
        self.connection = connection
        self._clock = clock
        self._most_at_once = most_at_once
        self._scripts: dict[str, Script] = {}

    async def run_script(self, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> Any:
        """Run ``script`` with its keys and arguments by their names in the script's first lines.

        Raises ``Unavailable``, and ``TypeError`` if a name is missing or unknown.
        """
        self._scripts[script.sha] = script
        [answer] = await self.pipeline([script.command(keys, arguments, shift_ms=self._clock.shift_ms)])
        return answer

    def script_command(self, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> Command:
        """Return the command that runs ``script`` as ``run_script`` does, to be sent beside others by ``pipeline``."""
        self._scripts[script.sha] = script
        return script.command(keys, arguments, shift_ms=self._clock.shift_ms)

    async def command(self, *words: str | int) -> Any:
        """Send one plain command. Raises ``Unavailable``."""
        [answer] = await self.pipeline([words])
        return answer

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send independent commands, as many as are allowed in one round trip. Raises ``Unavailable``."""
        if len(commands) <= self._most_at_once:
            return await self._round_trip(commands)
        answers: list[Any] = []
        for first in range(0, len(commands), self._most_at_once):
            answers += await self._round_trip(commands[first : first + self._most_at_once])
        return answers

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        try:
            answers = await self.connection.ask(commands)
            for i, answer in enumerate(answers):
                if isinstance(answer, NoScriptError):
                    # Redis was restarted and did nothing yet, so the script is not sent twice.
                    _evalsha, sha, *rest = commands[i]
                    [answers[i]] = await self.connection.ask([("EVAL", self._scripts[str(sha)].text, *rest)])
        except RedisError as error:
            raise _unavailable(error) from error
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise _unavailable(answer) from answer
        return answers


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        _("the server cannot reach Redis at the moment: try again"), cause=f"redis: {type(error).__name__}: {error}"
    )
