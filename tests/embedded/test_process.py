"""A child process ends with its parent at the latest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.process import Child, LeashMethod, describe_exit, leashed
from tests import processes

METHODS: list[LeashMethod] = ["kernel", "pipe"] if sys.platform == "linux" else ["pipe"]
each_method = pytest.mark.parametrize("method", METHODS)

# Starts a child and its grandchild, tells their process IDs, and waits.
PARENT = """
import asyncio, os, pathlib, sys
from app.embedded.process import Child
async def main():
    log = pathlib.Path(sys.argv[2])
    child = await Child.start(["sh", "-c", "sleep 60 & echo $!; wait"], env=os.environ, log=log, method=sys.argv[1])
    while not log.read_text().endswith("\\n"):
        await asyncio.sleep(0.01)
    print(child.pid, log.read_text(), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@each_method
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent(tmp_path: Path, method: LeashMethod, end: signal.Signals) -> None:
    """A child is gone when its parent is, however suddenly; the watching pipe takes its children too."""
    with processes.running(
        [sys.executable, "-c", PARENT, method, str(tmp_path / "log")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child, grandchild = map(int, parent.stdout.readline().split())
        assert processes.alive(child)
        parent.send_signal(end)
        parent.wait(5)
        processes.wait_until(lambda: not processes.alive(child), "the child's end", within_s=5)
        if method == "pipe":
            processes.wait_until(lambda: not processes.alive(grandchild), "the grandchild's end", within_s=5)
        elif processes.alive(grandchild):
            os.kill(grandchild, signal.SIGKILL)


def test_a_parent_that_died_first() -> None:
    """A command whose parent has ended before is not started at all."""
    command = leashed(["echo", "started"], method="kernel")
    command[command.index(str(os.getpid()))] = "1"
    ended = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, check=False, timeout=10)
    assert (ended.returncode, ended.stdout) == (1, b"")


@each_method
async def test_exit_code_and_output(tmp_path: Path, method: LeashMethod) -> None:
    """A child's exit code is its own, what it prints is in the log, and its stdin is empty."""
    command = [sys.executable, "-c", "import sys; print('out', sys.stdin.read()); sys.exit(3)"]
    child = await Child.start(command, env=os.environ, log=tmp_path / "log", method=method)
    assert await child.wait() == 3
    assert not child.running
    assert (tmp_path / "log").read_text() == "out \n"


@each_method
async def test_stop(tmp_path: Path, method: LeashMethod) -> None:
    """A child is asked to end, and one that will not is ended by force."""
    willing = await Child.start(["sleep", "60"], env=os.environ, log=tmp_path / "log", method=method)
    assert describe_exit(await willing.stop(within_s=10)) == "signal 15"
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.01; done"
    unwilling = await Child.start(["sh", "-c", deaf], env=os.environ, log=tmp_path / "deaf", method=method)
    processes.wait_until((tmp_path / "deaf").read_text, "the trap")
    assert describe_exit(await unwilling.stop(within_s=0.05)) == "signal 9"
    assert not processes.alive(unwilling.pid)


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    """A command that does not exist ends at once, and the log says why."""
    child = await Child.start(["/no/such/command"], env=os.environ, log=tmp_path / "log")
    assert await child.wait() != 0
    assert "/no/such/command" in (tmp_path / "log").read_text()
