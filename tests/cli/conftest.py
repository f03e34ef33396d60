"""The command line as a person meets it: arguments in, text and an exit code out."""

from __future__ import annotations

import base64
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from app.cli.main import run
from app.settings import Settings

POLICY = """
[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/all"]

[roles.press]
publish = ["plant/{attr.hall}/press/#"]
"""


@dataclass
class Answer:
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str


class Cli:
    """Runs verbs in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        """Run one verb to its end."""
        self._monkeypatch.setattr(sys, "argv", ["python -m app", *arguments])
        code = 0
        try:
            run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = self._capsys.readouterr()
        return Answer(code, said.out, said.err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """The command line, in an empty directory and without any setting in the environment."""
    for name in list(os.environ):
        if name.removesuffix("_FILE").lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield Cli(monkeypatch, capsys)
    structlog.reset_defaults()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of an instance on a real Redis, with a policy of two roles."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    return {
        "REDIS_URL": redis_url,
        "ISSUER_URL": "http://127.0.0.1:8080",
        "POLICY_FILE": str(policy),
        "SEALING_KEYS": f"k1:{base64.b64encode(bytes(32)).decode()}",
        "CLOUD_ENDPOINT": "http://127.0.0.1:1",
        "CLOUD_INSTANCE_ID": "post-cn-test",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "ak",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "sk",
    }


@pytest.fixture
def state(settings: dict[str, str], tmp_path: Path) -> str:
    """A state directory as `dev` leaves one."""
    directory = tmp_path / "state"
    directory.mkdir()
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    (directory / "settings.env").write_text("".join(lines))
    return str(directory)
