"""Starts parts in order, starts again the one that dies, and stops all in reverse order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from app.embedded.process import Child, describe_exit

_POLL_S: Final = 0.03
_STABLE_AFTER_S: Final = 10.0
_MAX_BACK_OFF_S: Final = 15.0
_STOP_WITHIN_S: Final = 8.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process to keep running, and how to tell that it answers."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    answers: Callable[[], Awaitable[bool]]
    ready_within_s: float = 20.0


class PartFailed(Exception):
    """A part did not start; the message is one line with its own last words and the path of its log."""

    def __init__(self, part: Part, reason: str) -> None:
        """``reason`` says how it failed, such as ``ended with exit code 2``."""
        words = _last_line(part.log)
        super().__init__(f"{part.name} {reason}: {words or 'it said nothing'} (log: {part.log})")
        self.part = part


class Supervisor:
    """Keeps parts running. Use as an async context manager: leaving it stops them all."""

    def __init__(self, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        """``say`` gets one line about each death and return; ``changed`` is called when process IDs have changed."""
        self._say = say
        self._changed = changed
        self._parts: list[Part] = []
        self._children: dict[str, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Nothing runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all parts, the last started first, by force after some seconds each."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for part in reversed(self._parts):
            if part.name in self._children:
                await self._children[part.name].stop(within_s=_STOP_WITHIN_S)

    @property
    def pids(self) -> dict[str, int]:
        """The process ID of each part by its name; after a death that of the next one, once it is there."""
        return {name: child.pid for name, child in self._children.items()}

    async def start(self, part: Part) -> None:
        """Start ``part``, wait until it answers, and keep it running from then on. Raises ``PartFailed``."""
        self._parts.append(part)
        await self._launch(part)
        self._keepers.append(asyncio.create_task(self._keep(part), name=f"keep {part.name}"))

    async def _launch(self, part: Part) -> None:
        try:
            child = await Child.start(part.command, env=part.environment, log=part.log)
        except OSError as error:
            raise PartFailed(part, f"cannot be started ({error})") from error
        self._children[part.name] = child
        try:
            async with asyncio.timeout(part.ready_within_s):
                while child.running and not await part.answers():  # noqa: ASYNC110 - another process sets no event
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await child.stop(within_s=1)
            raise PartFailed(part, f"did not answer within {part.ready_within_s:g} s") from None
        if not child.running:
            raise PartFailed(part, f"ended with {describe_exit(await child.wait())}")

    async def _keep(self, part: Part) -> None:
        """Start ``part`` again whenever it dies: at once the first time, ever more slowly if it keeps dying."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            since = loop.time()
            code = await self._children[part.name].wait()
            failures = 0 if loop.time() - since > _STABLE_AFTER_S else failures + 1
            death = f"{part.name} died ({describe_exit(code)})"
            while True:
                pause_s = min(2.0 ** (failures - 2), _MAX_BACK_OFF_S) if failures > 1 else 0.0
                if pause_s:
                    self._say(f"{death}: starting it again in {pause_s:g} s")
                    await asyncio.sleep(pause_s)
                try:
                    await self._launch(part)
                    break
                except PartFailed as error:
                    failures += 1
                    death = str(error)
            self._say(f"{part.name} died ({describe_exit(code)}): started again, pid {self.pids[part.name]}")
            self._changed()


def _last_line(log: Path, within_bytes: int = 4096) -> str:
    """Return the last line of a log that is not blank."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - within_bytes))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
