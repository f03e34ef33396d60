"""The command line as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from app import __version__
from app.cli.main import app
from tests.cli.conftest import Cli


def test_it_says_its_version(cli: Cli) -> None:
    """``--version`` prints the version that the package has, and does nothing else."""
    answer = cli("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"mqtt-token-server {__version__}\n", "")


def test_help_names_every_verb(cli: Cli) -> None:
    """``--help`` says what the program is for, and lists its verbs."""
    answer = cli("--help")
    assert answer.code == 0
    assert "short-lived, topic-scoped tokens" in answer.out
    for verb in ("dev", "serve", "sandbox", "devices", "operators", "policy", "device"):
        assert f"\n  {verb} " in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices", "show", "x", "--foo"], "no such option: --foo (see `python -m app devices show --help`)"),
        (["devices", "add"], "missing argument 'CLIENT_ID' (see `python -m app devices add --help`)"),
        (
            ["devices", "add", "x", "--alg", "ES"],
            "--alg: 'ES' is not one of 'HS256', 'ES256', 'EdDSA', 'RS256' (see `python -m app devices add --help`)",
        ),
        (
            ["device", "--expires-in", "1h"],
            "--expires-in: '1h' is not a whole number (see `python -m app device --help`)",
        ),
        (
            ["tokens", "list", "--limit", "0"],
            "--limit: '0' is too small: the minimum is 1 (see `python -m app tokens list --help`)",
        ),
        (["nonsense"], "no such command 'nonsense' (see `python -m app --help`)"),
        (
            ["tokens", "revoke", "--state", "nowhere"],
            "name the tokens by exactly one of HANDLE, --client-id, --role, --topic and --all",
        ),
        (["tokens", "list", "--role", "a", "--topic", "b"], "give only one of --client-id, --role, --topic"),
        (["tokens", "list", "--role", ""], "--role is empty: give it a value or leave it out"),
    ],
)
def test_every_error_has_one_form(cli: Cli, arguments: list[str], message: str) -> None:
    """A wrong command line is reported like any other error: one line, in the words of the command."""
    answer = cli(*arguments)
    assert answer.code in {1, 2}
    assert (answer.out, answer.err) == ("", f"error: {message}\n")


def test_a_group_of_verbs_alone_shows_its_help(cli: Cli) -> None:
    """Without a verb the help of the group is printed on standard error, with exit code 2."""
    for arguments in ([], ["devices"]):
        answer = cli(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("Usage: python -m app")


def verbs(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every verb."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("words", list(verbs(get_command(app))), ids=" ".join)
def test_no_help_shows_a_type_of_python(cli: Cli, words: tuple[str, ...]) -> None:
    """An option says what to write in its place, not how Python keeps it."""
    said = cli(*words, "--help").out
    assert "Usage: python -m app" in said
    assert re.findall(r"<list.*?>", said) == []


def test_the_end_of_input_at_a_question_is_a_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-D is no Ctrl-C: exit code 1, and one line says why nothing was done."""

    def end(_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", end)
    answer = cli("operators", "add", "alice", "--role", "viewer")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.strip() == "error: the input ended before the question was answered: nothing was done"
