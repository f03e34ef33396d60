"""Starts parts in order, restarts one that ends, and stops all in reverse order."""

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
_LOG_END_BYTES: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process to keep running, and how to find out whether it answers."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    answers: Callable[[], Awaitable[bool]]
    ready_within_s: float = 20.0


class PartFailed(Exception):
    """A part did not start; the message is one line, with the last line of its log and the log's path."""

    def __init__(self, part: Part, reason: str) -> None:
        """``reason`` says how it failed, for example ``ended with exit code 2``."""
        last_line = _last_line(part.log)
        super().__init__(f"{part.name} {reason}: {last_line or 'its log is empty'} (log: {part.log})")


class Supervisor:
    """Keeps parts running. An async context manager: at its end all parts are stopped."""

    def __init__(self, report: Callable[[str], None], pids_changed: Callable[[], None]) -> None:
        """``report`` gets one line about each end and restart; ``pids_changed`` is called after a restart."""
        self._report = report
        self._pids_changed = pids_changed
        self._parts: list[Part] = []
        self._children: dict[str, Child] = {}
        self._restarters: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Return the supervisor; no part runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all parts, the last one first; each gets SIGKILL after some seconds."""
        for restarter in self._restarters:
            restarter.cancel()
        await asyncio.gather(*self._restarters, return_exceptions=True)
        for part in reversed(self._parts):
            if part.name in self._children:
                await self._children[part.name].stop(within_s=_STOP_WITHIN_S)

    @property
    def pids(self) -> dict[str, int]:
        """The process ID of each part by its name; after a restart the new one."""
        return {name: child.pid for name, child in self._children.items()}

    async def start(self, part: Part) -> None:
        """Start ``part``, wait until it answers, and from then on restart it when it ends. Raises ``PartFailed``."""
        self._parts.append(part)
        await self._launch(part)
        self._restarters.append(asyncio.create_task(self._restart_always(part), name=f"restart {part.name}"))

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

    async def _restart_always(self, part: Part) -> None:
        """Restart ``part`` whenever it ends: at once the first time, after growing pauses if it keeps ending."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_at = loop.time()
            code = await self._children[part.name].wait()
            failures = 0 if loop.time() - started_at > _STABLE_AFTER_S else failures + 1
            death = f"{part.name} died ({describe_exit(code)})"
            while True:
                pause_s = min(2.0 ** (failures - 2), _MAX_BACK_OFF_S) if failures > 1 else 0.0
                if pause_s:
                    self._report(f"{death}: starting it again in {pause_s:g} s")
                    await asyncio.sleep(pause_s)
                try:
                    await self._launch(part)
                    break
                except PartFailed as error:
                    failures += 1
                    death = str(error)
            self._report(f"{part.name} died ({describe_exit(code)}): started again, pid {self.pids[part.name]}")
            self._pids_changed()


def _last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, or an empty text."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_END_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
