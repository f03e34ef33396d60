"""Parts kept running."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.embedded import supervisor, valkey
from app.embedded.supervisor import Part, PartFailed, Supervisor
from tests import processes


async def at_once() -> bool:
    """A part that answers as soon as it runs."""
    return True


class Ears:
    """Collects what the supervisor says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changes = 0

    def changed(self) -> None:
        """Count a change of process IDs."""
        self.changes += 1

    async def hear(self, text: str) -> str:
        """Wait for a line with ``text`` in it."""
        async with asyncio.timeout(20):
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                await asyncio.sleep(0.01)


def part(tmp_path: Path, name: str, *command: str, answers: Callable[[], Awaitable[bool]] = at_once) -> Part:
    """A part that runs ``command`` and logs into ``tmp_path``."""
    return Part(
        name=name,
        command=command,
        environment=os.environ,
        log=tmp_path / f"{name}.log",
        answers=answers,
        ready_within_s=5,
    )


def valkey_part(state: Path) -> Part:
    """The real thing."""
    return part(state, "valkey", *valkey.command(state), answers=lambda: valkey.answers(valkey.socket_path(state)))


async def test_a_killed_part_comes_back(tmp_path: Path) -> None:
    """A Valkey that is killed answers again within moments, and one line says so with the new process ID."""
    ears = Ears()
    async with Supervisor(ears.lines.append, ears.changed) as parts:
        await parts.start(valkey_part(tmp_path))
        first = parts.pids["valkey"]
        os.kill(first, signal.SIGKILL)
        line = await ears.hear("valkey died")
        second = parts.pids["valkey"]
        assert second != first
        assert line == f"valkey died (signal 9): started again, pid {second}"
        assert ears.changes == 1
        assert await valkey.answers(valkey.socket_path(tmp_path))
    assert not processes.alive(second)


async def test_a_part_that_cannot_start(tmp_path: Path) -> None:
    """A part that ends at once is reported with its own last words and its log, and the others are stopped."""
    ears = Ears()
    async with Supervisor(ears.lines.append, ears.changed) as parts:
        await parts.start(part(tmp_path, "good", "sleep", "60"))
        good = parts.pids["good"]
        with pytest.raises(PartFailed) as caught:
            await parts.start(part(tmp_path, "bad", "sh", "-c", "echo the reason; exit 7", answers=never))
    assert str(caught.value) == f"bad ended with exit code 7: the reason (log: {tmp_path / 'bad.log'})"
    assert not processes.alive(good)


async def never() -> bool:
    """A part that never answers."""
    return False


async def test_a_part_that_does_not_answer(tmp_path: Path) -> None:
    """A part that runs and never answers is ended and reported."""
    mute = Part(
        name="mute",
        command=["sleep", "60"],
        environment=os.environ,
        log=tmp_path / "log",
        answers=never,
        ready_within_s=0.2,
    )
    async with Supervisor(print, lambda: None) as parts:
        with pytest.raises(PartFailed, match=r"mute did not answer within 0.2 s: its log is empty"):
            await parts.start(mute)
        assert not processes.alive(parts.pids["mute"])


async def test_a_part_that_keeps_dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that dies again and again is started ever more slowly, with its last words, never in a spin."""
    monkeypatch.setattr(supervisor, "_MAX_BACK_OFF_S", 0.2)
    ears = Ears()
    flag = tmp_path / "broken"
    script = f"if [ -e {flag} ]; then echo broken; exit 1; fi; sleep 60"

    async def answers() -> bool:
        return not flag.exists()

    async with Supervisor(ears.lines.append, ears.changed) as parts:
        await parts.start(part(tmp_path, "part", "sh", "-c", script, answers=answers))
        flag.touch()
        os.kill(parts.pids["part"], signal.SIGKILL)
        line = await ears.hear("starting it again in 0.2 s")
        assert "part ended with exit code 1: broken" in line
        flag.unlink()
        assert "started again" in await ears.hear("started again")


async def test_parts_stop_in_reverse_order(tmp_path: Path) -> None:
    """What was started last is stopped first: an instance never sees its Valkey go."""
    ends = tmp_path / "ends"

    def noting(name: str) -> Part:
        trap = f"trap 'echo {name} >> {ends}; exit' TERM; echo ready; while :; do sleep 0.01; done"
        log = tmp_path / f"{name}.log"

        async def answers() -> bool:
            return log.exists() and "ready" in log.read_text()

        return part(tmp_path, name, "sh", "-c", trap, answers=answers)

    async with Supervisor(print, lambda: None) as parts:
        for name in ("first", "second", "third"):
            await parts.start(noting(name))
    assert ends.read_text().split() == ["third", "second", "first"]
