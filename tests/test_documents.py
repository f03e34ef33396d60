"""The documents are right: their commands run, and what they show is what is printed."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from string import Template
from typing import Any

import pytest
import structlog

from app.settings import Settings
from tests.cli.conftest import Cli
from tests.processes import ROOT, Dev, running_dev

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """Return the README's code block of a language that contains a text."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(code for code in blocks if containing in code)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """What `make run` starts."""
    with running_dev(tmp_path_factory.mktemp("documents") / "state") as dev:
        yield dev


@pytest.fixture
def environment(dev: Dev) -> dict[str, str]:
    """The names that the README's examples use."""
    content = dev.json
    example = {"SERVER": content["server"], "CLIENT_ID": content["device"]["client_id"]}
    return os.environ | example | {"SECRET": content["device"]["secret"]}


def test_the_curl_line_gets_a_token(environment: dict[str, str], need_program: Callable[[str], str]) -> None:
    """The README's curl line gets what it asks for, wildcard and all."""
    need_program("curl")
    run = subprocess.run(
        ["sh", "-c", block("sh", "oauth/token")], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout)["scope"] == "pub:plant/d1/up/# sub:plant/d1/down/+"


def test_the_python_program_publishes(environment: dict[str, str]) -> None:
    """The README's Python program gets a token, connects and publishes."""
    run = subprocess.run(
        [sys.executable, "-c", block("python", "paho")], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_a_service_and_an_operator_find_a_token_as_shown(
    dev: Dev, environment: dict[str, str], need_program: Callable[[str], str]
) -> None:
    """The README's API key introspects a token, and its audit finds it by device and by the token."""
    need_program("curl")

    def sh(line: str, **more: str) -> str:
        command = ["sh", "-c", line.replace(".venv/bin/python", sys.executable)]
        return subprocess.run(
            command, cwd=ROOT, env=environment | more, capture_output=True, text=True, check=True
        ).stdout

    token = json.loads(sh(block("sh", "oauth/token")))["access_token"]
    add, introspect = block("sh", "keys add").splitlines()
    key = sh(f"{add} --state {dev.state}").split()[-1]
    assert json.loads(sh(introspect, KEY=key, TOKEN=token))["active"] is True
    by_device, by_token = block("sh", "app audit").splitlines()
    assert "granted" in sh(f"{by_token} --state {dev.state}", TOKEN=token)
    assert by_device.startswith(".venv/bin/python -m app audit --client-id ")


def test_tokens_are_taken_back_as_shown(
    dev: Dev,
    environment: dict[str, str],
    need_program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each of the README's revokes is one, and nothing is live after them; the API's examples are answered."""
    need_program("curl")

    def sh(line: str, **more: str) -> Any:
        run = subprocess.run(["sh", "-c", line], env=environment | more, capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    def cli(line: str, typed: str = "", **more: str) -> str:
        """Run a verb in this process: a dozen processes would take long."""
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        words = [Template(word).substitute(environment | more) for word in shlex.split(line)]
        answer = Cli(monkeypatch, capsys)(*words[words.index("app") + 1 :], "--state", str(dev.state))
        assert answer.code == 0, (line, answer)
        return answer.out

    handle = sh(block("sh", "oauth/token"))["handle"]
    listing, *revokes = block("sh", "tokens revoke").splitlines()
    assert handle in cli(listing)
    for line in revokes:
        cli(f"{line} --no-wait", "everything\n" if "--all" in line else "y\n", HANDLE=handle)
    add, *asked = block("sh", "--right admin").splitlines()
    key = cli(add).split()[-1]
    structlog.reset_defaults()
    tokens, counted, begun, audit = (sh(line, KEY=key) for line in asked)
    assert (tokens["items"], counted) == ([], {"count": 0})
    assert begun["selection"] == {"role": "sensor"}
    assert len(audit["items"]) == 4


def test_people_are_added_and_removed_as_shown(
    dev: Dev, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of the README's block about operators does what it says."""
    said = []
    for line in block("sh", "operators add").splitlines():
        words = shlex.split(line)
        answer = Cli(monkeypatch, capsys)(*words[words.index("app") + 1 :], "--state", str(dev.state))
        assert answer.code == 0, (line, answer)
        said.append(answer.out)
    structlog.reset_defaults()
    added, password, role, listed, removed = said
    assert added.startswith("ann is added as operator; the password, shown only once:\n")
    assert password.splitlines()[-1] != added.splitlines()[-1]
    assert role == "ann is admin now, and logged out everywhere\n"
    assert {"admin", "ann"} <= set(listed.split())
    assert removed == "ann is removed\n"


def test_the_welcome_shown_names_the_same_places(dev: Dev) -> None:
    """The README's welcome has the lines that `dev` says, as far as it shows them."""
    shown = [line.split()[0] for line in block("text", "Ready in").splitlines() if line.startswith("  ")]
    said = [line.split()[0] for line in dev.said.partition("Ready in")[2].splitlines() if line.startswith("  ")]
    assert shown[-1] == "…"
    assert said[: len(shown) - 1] == shown[:-1]


def test_the_verbs_shown_answer_as_shown(dev: Dev) -> None:
    """What the README shows of ``policy explain`` is what it prints."""
    shown = block("text", "policy explain").split("\n", 1)[1]
    command = [sys.executable, "-m", "app", "policy", "explain", "GID_plant@@@d1", "--state", str(dev.state)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown


def test_the_calls_shown_are_answered_as_shown(dev: Dev) -> None:
    """What the README shows of ``call`` is what the sandbox answers, but for the request's ID."""
    request_id = re.compile("[0-9A-F]{8}-[0-9A-F-]{27}")
    for example in block("text", "app call").split("$ .venv/bin/python -m app ")[1:]:
        arguments, *shown = request_id.sub("ID", example).splitlines()
        command = [sys.executable, "-m", "app", *arguments.split(), "--state", str(dev.state)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        told = request_id.sub("ID", run.stdout + run.stderr).splitlines()
        cut = [
            line[: len(as_shown) - 1] + "…" if as_shown.endswith("…") else line
            for line, as_shown in zip(told, shown, strict=True)
        ]
        assert cut == shown


def test_the_tours_steps_are_those_shown(dev: Dev) -> None:
    """The README's tour has the steps that `device` takes."""
    command = [sys.executable, "-m", "app", "device", "--state", str(dev.state)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = block("text", "-m app device").split("\n", 1)[1]
    assert [line[:12] for line in told.splitlines()] == [line[:12] for line in shown.splitlines()]


def test_the_example_settings_are_settings(tmp_path: Path) -> None:
    """Every name in deploy/settings.env is one, and together they are enough."""
    (tmp_path / "secret").write_text("k1:secret")
    lines = [line for line in (ROOT / "deploy/settings.env").read_text().splitlines() if line and line[0] != "#"]
    values = dict(line.split("=", 1) for line in lines)
    known = set(Settings.model_fields)
    assert {name.removesuffix("_FILE").lower() if name != "POLICY_FILE" else "policy_file" for name in values} <= known
    files = {name: str(tmp_path / "secret") for name in values if name.endswith("_FILE") and name != "POLICY_FILE"}
    assert Settings.load(values | files).endpoint == "https://onsmqtt.cn-hangzhou.aliyuncs.com"


def test_every_dependency_has_its_reason() -> None:
    """CONTRIBUTING.md says of each dependency what it is for."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    declared = pyproject[pyproject.index("dependencies = [") : pyproject.index("[tool.")]
    names = set(re.findall(r'^  "([a-z0-9-]+)', declared, re.MULTILINE))
    reasons = (ROOT / "CONTRIBUTING.md").read_text()
    assert {name for name in names if name not in reasons} == set()


def test_the_files_that_contributing_names_exist() -> None:
    """CONTRIBUTING.md names each file by its path, or by the end of it."""
    named = set(re.findall(r"`([\w/.-]+\.(?:py|lua))`", (ROOT / "CONTRIBUTING.md").read_text()))
    paths = [f"/{path.relative_to(ROOT)}" for room in ("app", "tests") for path in (ROOT / room).rglob("*")]
    assert len(named) > 10
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in paths)} == set()


def test_what_is_imported_is_declared() -> None:
    """``app`` imports what pyproject.toml declares for it, and nothing that another package happens to bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[\[><=;]", line)[0].strip()
        for lines in (project["dependencies"], project["optional-dependencies"]["local"])
        for line in lines
    } | {"hiredis"}  # redis[hiredis]
    brought_by = packages_distributions()
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
    } - set(sys.stdlib_module_names)
    strays = {name for name in imported - {"app"} if not declared & {d.lower() for d in brought_by.get(name, [])}}
    # What the interfaces of aiohttp and aiohttp-jinja2 are made of.
    assert strays - {"jinja2", "markupsafe", "multidict", "yarl"} == set()


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def test_the_wheel_holds_all_that_serving_needs(tmp_path: Path) -> None:
    """Templates, scripts and the example policy are inside the wheel, under the package."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, check=True)
    [wheel] = tmp_path.glob("mqtt_token_server-*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout
    for name in (
        "app/templates/console/home.html",
        "app/store/request_token.lua",
        "app/store/_base.lua",
        "app/store/_shared.lua",
        "app/embedded/policy.toml",
    ):
        assert name in listed
    assert "tests/" not in listed
