"""``audit``."""

from __future__ import annotations

import io
import json

import pytest

from tests.cli.conftest import Cli

D1 = "GID_plant@@@d1"


@pytest.fixture
def audit_log(cli: Cli, state: str) -> None:
    """Some acts of an operator."""
    cli("devices", "add", D1, "--note", "[bold]x[/bold]", "--state", state)
    cli("devices", "disable", D1, "--state", state)
    cli("keys", "add", "billing", "--right", "introspect", "--state", state)


@pytest.mark.usefixtures("audit_log")
def test_an_operators_acts_are_listed_the_newest_first(cli: Cli, state: str) -> None:
    """With who ran the verb, in words and in JSON."""
    lines = json.loads(cli("audit", "--state", state, "--json").out)
    assert [line["what"] for line in lines] == ["key_added", "device_disabled", "device_added"]
    assert {line["who"].split(":")[0] for line in lines} == {"cli"}
    assert "device_disabled" in cli("audit", "--state", state).out


@pytest.mark.usefixtures("audit_log")
@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--client-id", D1], 2),
        (["--client-id", "GID_plant@@@d2"], 0),
        (["--what", "key_added"], 1),
        (["--since", "1h"], 3),
        (["--until", "1h"], 0),
        (["--since", "2020-01-01", "--until", "2020-01-02T03:04+08:00"], 0),
        (["--limit", "2"], 2),
        (["--handle", "07-" + "a" * 22], 0),
    ],
)
def test_filters(cli: Cli, state: str, options: list[str], count: int) -> None:
    """Each narrows what is shown."""
    assert len(json.loads(cli("audit", *options, "--state", state, "--json").out)) == count


@pytest.mark.parametrize(
    "options",
    [
        ["--what", "nonsense"],
        ["--since", "yesterday"],
        ["--since", "-1h"],
        ["--until", "2026-13-01"],
        ["--since", "1h", "--until", "2h"],
        ["--handle", "x"],
        ["--token", "R|secret"],
        ["--token", "-", "--handle", "07-" + "a" * 22],
        ["--client-id", "x" * 1000],
    ],
)
def test_malformed_filters_are_one_line(cli: Cli, state: str, options: list[str]) -> None:
    """A token on the command line is not repeated either."""
    answer = cli("audit", *options, "--state", state)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1)
    assert "secret" not in answer.err


@pytest.mark.parametrize("text", ["", "R|unknown", "x" * 100_000])
def test_a_token_is_read_from_standard_input(cli: Cli, state: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What is none of ours is said to be, and not repeated."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    answer = cli("audit", "--token", "-", "--state", state)
    assert (answer.code, answer.out) == (1, "")
    assert "this token is unknown" in answer.err
