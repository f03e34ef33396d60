"""The state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.state import StateInUse, fresh_log, locked, write_private
from tests import processes

HOLDER = """
import pathlib, sys
from app.embedded.state import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second `dev` on the same state is refused with the first one's process ID; ``kill -9`` frees the state."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateInUse, match=rf"pid {holder.pid}.*--state"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_state_is_private(tmp_path: Path) -> None:
    """Only their owner can read the directory and the files in it."""
    state = tmp_path / "a" / "b"
    with locked(state):
        write_private(state / "secret", "one")
        write_private(state / "secret", "two")
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "secret").stat().st_mode & 0o777 == 0o600
    assert (state / "secret").read_text() == "two"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """A file is replaced wholly or not at all, and nothing half-written is left."""
    write_private(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(tmp_path / "file", "new \udc80")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_logs_of_the_run_before(tmp_path: Path) -> None:
    """A new run begins a new log and keeps the last one."""
    fresh_log(tmp_path, "part").write_text("first")
    log = fresh_log(tmp_path, "part")
    assert not log.exists()
    assert log.with_suffix(".log.1").read_text() == "first"


def test_helpers_see_the_dead(tmp_path: Path) -> None:
    """A process that ended but was not reaped counts as gone."""
    with subprocess.Popen(["true"]) as process:
        processes.wait_until(lambda: not processes.alive(process.pid), "the end of `true`")
