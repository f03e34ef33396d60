"""Where a verb finds its settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_from_the_environment(cli: Cli, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All settings may come from the environment."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert json.loads(cli("devices", "list", "--json").out) == []


def test_from_local(cli: Cli, state: str) -> None:
    """With neither environment nor ``--state``, the settings are those of ``.local``."""
    Path(".local").symlink_to(state)
    assert json.loads(cli("devices", "list", "--json").out) == []


def test_never_a_mixture(cli: Cli, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--state``, nothing of the environment counts."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("SEALING_KEYS", "wrong")
    assert json.loads(cli("devices", "list", "--json", "--state", state).out) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["devices", "list"], "REDIS_URL is not set"),
        (["devices", "list", "--state", "nowhere"], "nowhere is not the state directory of a dev"),
        (["device", "--state", "nowhere"], "no dev is running on nowhere"),
        (["device", "--client-id", "GID_plant@@@d1"], "nothing to do: add --print"),
        (["device", "--publish", "a"], "TOPIC=MESSAGE"),
        (["device", "--client-id", "d", "--secret-file", "/dev/null", "--print"], "has at least 32 bytes"),
        (["device", "--client-id", "d", "--private-key", "/dev/null", "--print"], "not an unencrypted private key"),
        (
            ["device", "--client-id", "d", "--private-key", "a", "--secret-file", "b", "--print"],
            "give only one of --secret-file",
        ),
        (["device", "--secret-file", "/dev/null", "--print"], "need --client-id"),
        (["sandbox"], "ALIBABA_CLOUD_ACCESS_KEY_ID is not set"),
    ],
)
def test_what_is_missing_is_one_line(cli: Cli, arguments: list[str], reason: str) -> None:
    """Missing settings are reported in one line, with exit code 2."""
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(Path.cwd().iterdir()) == []


def test_a_broken_file(cli: Cli, state: str) -> None:
    """A settings file that is none, and a ``dev.json`` that is none, are refused with their path."""
    (Path(state) / "dev.json").write_text("{")
    answer = cli("device", "--state", state)
    assert answer.code == 2
    assert "dev.json is damaged" in answer.err
    (Path(state) / "settings.env").write_text("nonsense here\n")
    answer = cli("devices", "list", "--state", state)
    assert answer.code == 2
    assert "settings.env" in answer.err
