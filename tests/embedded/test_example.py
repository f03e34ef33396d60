"""What one `dev` draws once and keeps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.embedded.example import BrokenState, load_example, load_settings, read_settings


def test_generated_once(tmp_path: Path) -> None:
    """Keys, names and secrets are generated the first time, kept, and different in another state."""
    first = (load_example(tmp_path), load_settings(tmp_path, {"PORT": "1"}))
    assert (load_example(tmp_path), load_settings(tmp_path, {"PORT": "1"})) == first
    other = tmp_path / "other"
    other.mkdir()
    assert load_example(other).device_secret != first[0].device_secret
    assert load_settings(other, {})["SEALING_KEYS"] != first[1]["SEALING_KEYS"]
    for name in ("settings.env", "example.json", "policy.toml"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_what_a_person_changed_stays(tmp_path: Path) -> None:
    """A person's settings and policy stay; only this run's addresses replace an earlier run's."""
    load_settings(tmp_path, {"MQTT_PORT": "1"})
    (tmp_path / "policy.toml").write_text("# mine\n")
    with (tmp_path / "settings.env").open("a") as file:
        file.write("LOG_LEVEL='debug'  # for now\n")
    settings = load_settings(tmp_path, {"MQTT_PORT": "2"})
    assert (settings["LOG_LEVEL"], settings["MQTT_PORT"]) == ("debug", "2")
    assert read_settings(tmp_path / "settings.env") == settings
    assert (tmp_path / "policy.toml").read_text() == "# mine\n"


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    """``settings.env`` can be sourced by a shell, whatever the path of the state directory."""
    state = tmp_path / "it's a $state"
    state.mkdir()
    settings = load_settings(state, {})
    command = '. "$1/settings.env"; printf %s "$POLICY_FILE"'
    sourced = subprocess.run(["sh", "-c", command, "sh", str(state)], capture_output=True, check=True, text=True)
    assert sourced.stdout == settings["POLICY_FILE"] == str(state / "policy.toml")


@pytest.mark.parametrize("text", ["nonsense", "A='open"])
def test_damaged_settings(tmp_path: Path, text: str) -> None:
    """A settings file that is none is refused by name."""
    (tmp_path / "settings.env").write_text(text)
    with pytest.raises(BrokenState, match=r"settings\.env is damaged"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"device_secret": "x"}'])
def test_damaged_example(tmp_path: Path, text: str) -> None:
    """A damaged file of example devices is refused by name, never replaced: the registry holds their secrets."""
    (tmp_path / "example.json").write_text(text)
    with pytest.raises(BrokenState, match=r"example\.json is damaged"):
        load_example(tmp_path)
