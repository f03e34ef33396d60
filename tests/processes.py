"""Real processes for tests: start them, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import redis

from app.embedded import valkey
from app.embedded.process import leashed


def free_ports(count: int = 1) -> list[int]:
    """Return ports that the system has just said are free, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def wait_until(condition: Callable[[], object], what: str, *, within_s: float = 20) -> None:
    """Wait until ``condition`` holds; fail saying ``what`` was waited for."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a dead one that nobody reaped yet counts as gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _exists(pid) and not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def running(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that dies with the test run, and is killed at the end of the block if it still runs."""
    process = subprocess.Popen(leashed(command), stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def running_valkey(state: Path) -> Iterator[str]:
    """Run the embedded Valkey on ``state`` and yield its URL once it answers."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "valkey.log").open("ab") as log, running(valkey.command(state), stdout=log, stderr=log) as process:
        url = valkey.url(state)
        with redis.Redis.from_url(url) as client:
            wait_until(lambda: process.poll() is not None or _pings(client), f"Valkey at {url}")
        assert process.poll() is None, (state / "valkey.log").read_text()
        yield url


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
