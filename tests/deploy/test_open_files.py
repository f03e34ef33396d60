"""An instance that may open few files, as a process of its own, run by ``serve`` and by gunicorn."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from app.web.open_files import raise_open_files
from tests.deploy.site import procfile
from tests.processes import ROOT, free_ports, running, wait_until
from tests.sealing_keys import new_key_text

OPEN_FILES: Final = 1024
IDLE: Final = 1100
COMMANDS: Final = {"serve": [sys.executable, "-m", "app", "serve"], "gunicorn": procfile()}


@contextlib.contextmanager
def instance(prlimit: str, command: Sequence[str], redis_url: str, log: Path) -> Iterator[str]:
    """Run an instance that begins with few open files and may raise them to ``OPEN_FILES``; yields its URL."""
    [port] = free_ports()
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "ISSUER_URL": "https://tokens.example",
        "REDIS_URL": redis_url,
        "POLICY_FILE": str(ROOT / "app/embedded/policy.toml"),
        "SEALING_KEYS": new_key_text("k1").reveal(),
        "CLOUD_INSTANCE_ID": "mqtt-test",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "test",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "test",
        "LOG_LEVEL": "warning",
    }
    limited = [prlimit, f"--nofile=256:{OPEN_FILES}", *command]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        running(limited, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        wait_until(lambda: process.poll() is not None or status(f"{url}/readyz") == 200, "the instance")
        assert process.poll() is None, log.read_text()
        yield url


def status(url: str, form: bytes | None = None) -> int:
    """Return the status of a request over a new connection, 0 without an answer."""
    try:
        with urlopen(Request(url, form), timeout=10) as answer:  # noqa: S310 - an instance of this test
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize("kind", COMMANDS)
def test_idle_connections_do_not_use_up_the_open_files(
    kind: str, redis_url: str, tmp_path: Path, need_program: Callable[[str], str]
) -> None:
    """1,100 idle connections at 1,024 open files: operators, the balancer and devices are served all the same."""
    assert raise_open_files() > IDLE + 200, "this test itself needs more open files (ulimit -Hn)"
    log = tmp_path / "log"
    with instance(need_program("prlimit"), COMMANDS[kind], redis_url, log) as url, contextlib.ExitStack() as idle:
        port = int(url.rpartition(":")[2])
        for _ in range(IDLE):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert status(f"{url}/healthz") == 200
        assert status(f"{url}/readyz") == 200
        assert status(f"{url}/admin/sign-in") == 200
        assert status(f"{url}/oauth/token", b"grant_type=client_credentials") == 401
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    [entry] = [each for each in entries if each["event"] == "open_files_too_few"]
    assert entry["open_files"] == OPEN_FILES  # the soft limit was raised
    assert entry["connections"] < OPEN_FILES < entry["max_connections"] < entry["needed"]
    assert str(entry["needed"]) in entry["cure"]
