"""``sandbox`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests import processes

KEYS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "ak",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "sk",
    "CLOUD_INSTANCE_ID": "post-cn-test",
}


def sandbox(state: Path, *options: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a sandbox on free ports, or on those in ``options``."""
    command = [
        sys.executable,
        "-m",
        "app",
        "sandbox",
        "--port",
        "0",
        "--mqtt-port",
        "0",
        "--state",
        str(state),
        *options,
    ]
    environment = {"PATH": os.environ["PATH"], **KEYS}
    return processes.running(
        command, cwd=processes.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_it_says_where_it_listens_and_ends_in_good_order(tmp_path: Path) -> None:
    """The ready line holds the ports that were really taken, and SIGTERM ends it with exit code 0."""
    with sandbox(tmp_path / "state") as process:
        assert process.stdout is not None
        words = process.stdout.readline().decode().split()
        assert words[0] == "ready:"
        url, (host, mqtt_port) = words[2].rstrip(","), words[4].split(":")
        with urlopen(f"{url}/_sandbox/calls", timeout=5) as reply:  # noqa: S310 - a sandbox of ours
            assert json.load(reply) == {}
        socket.create_connection((host, int(mqtt_port)), timeout=5).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("option", ["--port", "--mqtt-port"])
def test_a_busy_port_is_one_line(tmp_path: Path, option: str) -> None:
    """A busy port ends the start with one line that names both options."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        sandbox(tmp_path, option, str(taken.getsockname()[1])) as late,
    ):
        assert late.wait(20) == 2
        assert late.stderr is not None
        said = late.stderr.read().decode()
    assert len(said.splitlines()) == 1
    assert f"({option})" in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--host", "no such host"], "cannot listen on no such host"),
        (["--state", "/dev/null/state"], "--state /dev/null/state"),
    ],
)
def test_what_it_cannot_have_is_one_line(tmp_path: Path, options: list[str], reason: str) -> None:
    """An address that is not this machine's and a directory that cannot be made end the start with one line."""
    with sandbox(tmp_path, *options) as late:
        assert late.wait(20) == 2
        assert late.stderr is not None
        [said] = late.stderr.read().decode().splitlines()
    assert reason in said
