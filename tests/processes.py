"""Real processes for tests: start them, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from app.embedded import valkey
from app.embedded.process import leashed
from app.store.redis_keys import QUOTA_SERVER

ROOT: Final = Path(__file__).parents[1]
"""Where the repository lies: commands are run from there, as a newcomer would."""


def free_ports(count: int = 1) -> list[int]:
    """Return ports that the system has just said are free, all different, for a process that must be told its ports.

    Those that it would choose itself (port 0) it also gives to any outgoing connection, so one could be gone by the
    time the process listens; these lie below that range on Linux and macOS.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", random.randrange(12_000, 32_000)))  # noqa: S311 - any will do
                found.append(int(one.getsockname()[1]))
        return found


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


@dataclass
class Dev:
    """A running `dev` and what it says."""

    process: subprocess.Popen[bytes]
    state: Path
    log: Path

    @property
    def json(self) -> dict[str, Any]:
        """What ``dev.json`` says now."""
        content: dict[str, Any] = json.loads((self.state / "dev.json").read_text())
        return content

    @property
    def said(self) -> str:
        """All it has printed so far."""
        return self.log.read_text()

    @property
    def pids(self) -> list[int]:
        """The process IDs of all its parts."""
        content = self.json
        return [*content["pids"].values(), *(instance["pid"] for instance in content["instances"])]

    def command(self, program: str) -> str:
        """Return the command line it printed for ``program``, as a person would paste it."""
        return next(line.strip() for line in self.said.splitlines() if program in line and line.startswith("  "))


@contextlib.contextmanager
def running_dev(state: Path, *options: str, ports: Sequence[int] = ()) -> Iterator[Dev]:
    """Run `dev` on free ports (or ``ports``: server, sandbox, broker) and yield it once it is ready."""
    port, sandbox, mqtt = ports or free_ports(3)
    log = state.with_name(f"{state.name}-{time.monotonic_ns()}.log")
    chosen = ["--state", str(state), "--port", str(port), "--sandbox-port", str(sandbox), "--mqtt-port", str(mqtt)]
    command = [sys.executable, "-m", "app", "dev", *chosen, *options]
    with log.open("wb") as output, running(command, cwd=ROOT, stdout=output, stderr=output) as process:
        dev = Dev(process, state, log)
        ready = state / "dev.json"
        own = f'"dev": {process.pid},'
        wait_until(
            lambda: process.poll() is not None or (ready.exists() and own in ready.read_text()),
            "dev's readiness",
            within_s=30,
        )
        assert process.poll() is None, dev.said
        wait_until(lambda: "Ready in" in dev.said, "the welcome")
        yield dev
        if process.poll() is None:
            process.terminate()
            process.wait(20)


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


def trust_server(client: redis.Redis) -> None:
    """Let permits be given at once, as if this server's logs of permits had always been kept."""
    client.set(QUOTA_SERVER, f"{client.info('server')['run_id']} 0")


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
