"""``sandbox`` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
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


def test_it_prints_where_it_listens_and_stops_on_sigterm(tmp_path: Path) -> None:
    """The ready line has the actual ports, and SIGTERM ends the process with exit code 0."""
    with sandbox(tmp_path / "state") as process:
        assert process.stdout is not None
        words = process.stdout.readline().decode().split()
        assert words[0] == "ready:"
        url, (host, mqtt_port) = words[2].rstrip(","), words[4].split(":")
        with urlopen(f"{url}/_sandbox/calls", timeout=5) as reply:  # noqa: S310 - the sandbox of this test
            assert json.load(reply) == {}
        socket.create_connection((host, int(mqtt_port)), timeout=5).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_the_documents_examples(tmp_path: Path, need_program: Callable[[str], str]) -> None:
    """The keys file of deploy/SANDBOX.md is valid, its commands run in order, and they leave the sandbox as it was."""
    need_program("curl")
    text = (processes.ROOT / "deploy/SANDBOX.md").read_text()
    commands = "".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL))
    (tmp_path / "keys.json").write_text("".join(re.findall(r"```json\n(.*?)```", text, re.DOTALL)))
    with sandbox(tmp_path / "state", "--keys", str(tmp_path / "keys.json"), "--control-port", "0") as process:
        url, controls = _url(process), _controls(process)
        shown = _get(f"{url}/_sandbox/limits")
        before = {name: shown[name] for name in ("qps", "egress_qps", "block_s", "window", "blocked")}
        script = ["sh", "-euc", commands]
        env = {**os.environ, "SANDBOX": url, "CONTROLS": controls}
        done = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert '{"id":"fault-3"}' in done.stdout
        assert '"for_s":' in done.stdout
        after = _get(f"{url}/_sandbox/limits")
        assert {name: after[name] for name in ("qps", "egress_qps", "block_s", "window", "blocked")} == before
        assert (before["qps"]["ApplyToken"], before["egress_qps"], before["blocked"]) == (100, 300, [])
        assert _get(f"{url}/_sandbox/faults")["faults"] == []
        assert _get(f"{url}/_sandbox/clock")["offset_s"] == 0
        for access_key_id, code in (("ak-server", "SignatureDoesNotMatch"), ("ak-disabled", "InvalidAccessKeyId.Inac")):
            with pytest.raises(HTTPError) as refused:
                urlopen(f"{url}/?{_query(access_key_id)}", timeout=5)  # noqa: S310 - the sandbox of this test
            with refused.value as answer:
                assert code in answer.read().decode()


def test_a_key_of_the_environment_must_not_be_in_the_file(tmp_path: Path) -> None:
    """A file that names the root key again ends the start with one line, because two secrets contradict each other."""
    (tmp_path / "keys.json").write_text('{"keys": [{"id": "ak", "secret": "other", "policies": []}]}')
    with sandbox(tmp_path, "--keys", str(tmp_path / "keys.json")) as late:
        assert late.wait(20) == 2
        assert late.stderr is not None
        [said] = late.stderr.read().decode().splitlines()
    assert "'ak' is set in the environment already" in said


def test_the_previous_generation(tmp_path: Path) -> None:
    """``--limits v2`` sets the quotas of the previous generation of instances."""
    with sandbox(tmp_path / "state", "--limits", "v2") as process:
        assert _get(f"{_url(process)}/_sandbox/limits")["qps"]["ApplyToken"] == 500


@pytest.mark.parametrize(
    ("limits", "apply_token_qps", "window"),
    [("v3", 100, "sliding"), ("v2,whole", 500, "whole"), ("whole", 100, "whole"), ("off,sliding", None, "sliding")],
)
def test_how_seconds_are_counted(tmp_path: Path, limits: str, apply_token_qps: int | None, window: str) -> None:
    """``--limits`` names the quotas, the kind of seconds, or both."""
    with sandbox(tmp_path / "state", "--limits", limits, "--max-pause-ms", "45") as process:
        shown = _get(f"{_url(process)}/_sandbox/limits")
    assert (shown["qps"]["ApplyToken"], shown["window"], shown["max_pause_ms"]) == (apply_token_qps, window, 45)


def test_the_control_port_is_printed(tmp_path: Path) -> None:
    """A control port is printed after the line that says that the sandbox is ready."""
    with sandbox(tmp_path / "state", "--control-port", "0") as process:
        url, controls = _url(process), _controls(process)
        assert controls != url
        assert _get(f"{controls}/_sandbox/gateway") == {"closed_for_s": 0}


def _url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().split()[2].rstrip(",")


def _controls(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    label, url = process.stdout.readline().decode().split()
    assert label == "controls:"
    return url


def _get(url: str) -> Any:
    with urlopen(url, timeout=5) as reply:  # noqa: S310 - the sandbox of this test
        return json.load(reply)


def _query(access_key_id: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    common = "Version=2020-04-20&SignatureMethod=HMAC-SHA1&SignatureVersion=1.0&SignatureNonce=n&Signature=x"
    return f"Action=QueryToken&AccessKeyId={access_key_id}&Timestamp={now}&{common}"


@pytest.mark.parametrize("option", ["--port", "--mqtt-port", "--control-port"])
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
        (["--group", "plant"], "--group 'plant' is not a valid group ID: GID_"),
        (["--topic", "plant", "--topic", "a/b"], "--topic: 'a/b' is not a valid parent topic"),
        (["--limits", "v4"], "--limits 'v4' is not valid: use v3, v2, off"),
        (["--limits", "v2,v3"], "--limits 'v2,v3' is not valid"),
        (["--limits", "whole,whole"], "--limits 'whole,whole' is not valid"),
        (["--limits", ""], "--limits '' is not valid"),
    ],
)
def test_an_unusable_option_is_one_line(tmp_path: Path, options: list[str], reason: str) -> None:
    """An unusable address or directory and a malformed name end the start with one line."""
    with sandbox(tmp_path, *options) as late:
        assert late.wait(20) == 2
        assert late.stderr is not None
        [said] = late.stderr.read().decode().splitlines()
    assert reason in said
