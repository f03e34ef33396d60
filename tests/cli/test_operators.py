"""``operators``."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable

import pytest

from app.model.operators import OperatorRole
from app.model.secrets import Password, Secret
from app.service.sign_in import SignIn
from app.store.operators import Operators
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from tests.cli.conftest import Cli

Type = Callable[[bytes], None]
TYPED = "correct horse battery"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Type:
    """A function that puts bytes on standard input."""
    return lambda raw: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))


@pytest.fixture
def type_at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that says what is typed when a password is asked for, without an echo."""

    def answers(*texts: str) -> None:
        waiting = iter(texts)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("getpass.getpass", lambda _: next(waiting))

    return answers


def role_of(settings: dict[str, str], name: str, password: str) -> OperatorRole:
    """Sign in as at an instance with the same settings, and return the role."""
    return asyncio.run(_role_of(settings, name, password))


async def _role_of(settings: dict[str, str], name: str, password: str) -> OperatorRole:
    store, keys = Store(Secret(settings["REDIS_URL"])), SealingKeys.parse(Secret(settings["SEALING_KEYS"]))
    operators = Operators(store, keys)
    try:
        sign_in = SignIn(operators, Sessions(store, keys, operators))
        return (await sign_in.sign_in(name, Password(password), "192.0.2.1")).operator.role
    finally:
        await store.close()


def listed(cli: Cli, state: str) -> dict[str, str]:
    """Return all operators' roles."""
    return {each["name"]: each["role"] for each in json.loads(cli("operators", "list", "--state", state, "--json").out)}


def test_a_password_is_asked_for_twice(cli: Cli, state: str, type_at_terminal: Callable[..., None]) -> None:
    """The password is not shown; two that differ add no operator."""
    type_at_terminal(TYPED, TYPED + "x")
    refused = cli("operators", "add", "ann", "--role", "admin", "--state", state)
    assert (refused.code, refused.out) == (1, "")
    assert "not the same" in refused.err
    type_at_terminal(TYPED, TYPED)
    assert cli("operators", "add", "ann", "--role", "admin", "--state", state).out == "ann is added as admin\n"
    type_at_terminal(TYPED, TYPED)
    changed = cli("operators", "passwd", "ann", "--state", state)
    assert changed.out == "ann has a new password, and is logged out everywhere\n"
    assert listed(cli, state) == {"ann": "admin"}


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_password_comes_by_standard_input(
    cli: Cli, state: str, settings: dict[str, str], pipe: Type, end: bytes
) -> None:
    """With or without an end of line."""
    pipe(TYPED.encode() + end)
    said = cli("operators", "add", "ann", "--role", "viewer", "--password-stdin", "--state", state)
    assert (said.code, said.out) == (0, "ann is added as viewer\n")
    assert role_of(settings, "ann", TYPED) is OperatorRole.VIEWER


def test_a_generated_password_is_shown_once(cli: Cli, state: str, settings: dict[str, str]) -> None:
    """With ``--generate``, or with ``--json`` where nothing else says where it comes from."""
    said = cli("operators", "add", "ann", "--role", "admin", "--generate", "--state", state)
    said_first, password = said.out.splitlines()
    assert said_first == "ann is added as admin; the password, shown only once:"
    assert role_of(settings, "ann", password) is OperatorRole.ADMIN
    again = cli("operators", "passwd", "ann", "--generate", "--state", state)
    assert again.out.splitlines()[-1] != password
    assert role_of(settings, "ann", again.out.splitlines()[-1]) is OperatorRole.ADMIN
    made = cli("operators", "add", "bob", "--role", "operator", "--state", state, "--json")
    record = json.loads(made.out)
    assert record.keys() == {"name", "role", "password"}
    assert role_of(settings, "bob", record["password"]) is OperatorRole.OPERATOR
    for answer in (cli("operators", "list", "--state", state), cli("operators", "list", "--state", state, "--json")):
        assert "bob" in answer.out
        assert record["password"] not in answer.out + answer.err


def test_roles_change_and_operators_go(cli: Cli, state: str) -> None:
    """``role`` and ``remove`` say what they did; the last admin stays."""
    for name, role in (("ann", "admin"), ("bob", "viewer")):
        assert cli("operators", "add", name, "--role", role, "--json", "--state", state).code == 0
    for verb in (["remove", "ann"], ["role", "ann", "--role", "viewer"]):
        refused = cli("operators", *verb, "--state", state)
        assert refused.code == 1
        assert "last admin" in refused.err
    said = cli("operators", "role", "bob", "--role", "admin", "--state", state)
    assert said.out == "bob is admin now, and logged out everywhere\n"
    assert json.loads(cli("operators", "role", "ann", "--role", "viewer", "--json", "--state", state).out) == {
        "name": "ann",
        "role": "viewer",
    }
    assert listed(cli, state) == {"ann": "viewer", "bob": "admin"}
    assert cli("operators", "remove", "ann", "--state", state).out == "ann is removed\n"
    assert "no operator of that name" in cli("operators", "remove", "ann", "--state", state).err
    assert listed(cli, state) == {"bob": "admin"}
    audit = cli("audit", "--state", state, "--json").out
    for what in ("operator_added", "operator_changed", "operator_removed"):
        assert what in audit


def test_without_a_terminal_the_options_are_named(cli: Cli, state: str, pipe: Type) -> None:
    """A script without a terminal gets an error with the options instead of a question."""
    pipe(b"")
    answer = cli("operators", "add", "ann", "--role", "admin", "--state", state)
    assert (answer.code, answer.out) == (2, "")
    assert "--password-stdin or --generate" in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "10 to 256"),
        (b"\n", "10 to 256"),
        (b"short\n", "10 to 256"),
        (b"x" * 300, "10 to 256"),
        (b"x" * 10_000_000, "too long"),
        (b"\xff\xfe" * 10, "UTF-8"),
        (b"other.name", "the name"),
    ],
)
def test_a_wrong_password_is_one_line(cli: Cli, state: str, pipe: Type, raw: bytes, complaint: str) -> None:
    """The reason is reported without the password, and no operator is added."""
    pipe(raw)
    options = ["--role", "admin", "--password-stdin", "--state", state]
    answer = cli("operators", "add", "other.name", *options)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1)
    assert complaint in answer.err
    assert listed(cli, state) == {}


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "a\x1b[31m", "-x", "<b>", "ключ", "a/b", "x" * 10_000])
def test_a_name_that_could_deceive_is_refused(cli: Cli, state: str, name: str) -> None:
    """A name is shown in pages, tables, logs and the audit: no markup, no control character, nothing endless."""
    answer = cli("operators", "add", "--role", "admin", "--generate", "--state", state, "--", name)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1)
    assert "1 to 64" in answer.err
    assert listed(cli, state) == {}


def test_refusals(cli: Cli, state: str) -> None:
    """A role must be one; a password comes from one place, and never from the command line itself."""
    add = ["operators", "add", "ann", "--state", state]
    assert cli(*add, "--role", "root", "--generate").code == 2
    assert cli(*add, "--generate").code == 2
    assert cli(*add, "--role", "admin", "--password", TYPED).code == 2
    assert "give only one of" in cli(*add, "--role", "admin", "--generate", "--password-stdin").err
    assert cli(*add, "--role", "admin", "--generate").code == 0
    assert "already" in cli(*add, "--role", "admin", "--generate").err
    for verb in (["passwd", "bob", "--generate"], ["role", "bob", "--role", "admin"], ["remove", "bob"]):
        assert "no operator of that name" in cli("operators", *verb, "--state", state).err
