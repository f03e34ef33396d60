"""``operators``: people for the console."""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.output import print_result, print_table
from app.cli.setup import JsonOption, StateOption, run_with_services
from app.cli.times import shown_time
from app.errors import InvalidRequest, Misconfigured
from app.model.operators import Operator, OperatorRole
from app.model.secrets import Password

if TYPE_CHECKING:
    from app.service.operators import NewPassword

_MAX_STDIN_BYTES: Final = 4096
"""Longer than any valid password."""

app = typer.Typer(no_args_is_help=True, help="People for the console.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name for signing in, as the audit shows it.")]
RoleOption = Annotated[
    OperatorRole, typer.Option(help="viewer: only look; operator: devices and tokens too; admin: everything.")
]
StdinOption = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
GenerateOption = Annotated[bool, typer.Option("--generate", help="Generate a password and show it, only once.")]


@app.command("add")
def add_operator(
    name: NameArgument,
    role: RoleOption,
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an operator. You are asked for the password; with --json one is generated."""
    password = _password(from_stdin=password_stdin, generate=generate, as_json=as_json)
    made = run_with_services(
        state, lambda services: services.operators.add_operator(name, role, password, actor=services.actor)
    )
    _print_new_password(made, f"{made.name} is added as {made.role}", as_json=as_json)


@app.command("passwd")
def change_password(
    name: NameArgument,
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change an operator's password, and log them out everywhere.

    You are asked for the password; with --json one is generated.
    """
    password = _password(from_stdin=password_stdin, generate=generate, as_json=as_json)
    made = run_with_services(
        state, lambda services: services.operators.set_password(name, password, actor=services.actor)
    )
    _print_new_password(made, f"{made.name} has a new password, and is logged out everywhere", as_json=as_json)


@app.command("role")
def change_role(name: NameArgument, role: RoleOption, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Change an operator's role, and log them out everywhere."""
    run_with_services(state, lambda services: services.operators.set_role(name, role, actor=services.actor))
    text = f"{name} is {role} now, and logged out everywhere"
    print_result({"name": name, "role": role}, text, as_json=as_json)


@app.command("remove")
def remove_operator(name: NameArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Remove an operator, and log them out everywhere."""
    run_with_services(state, lambda services: services.operators.remove_operator(name, actor=services.actor))
    print_result({"name": name}, f"{name} is removed", as_json=as_json)


@app.command("list")
def list_operators(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all operators."""
    operators = run_with_services(state, lambda services: services.operators.list_operators())
    if as_json:
        print(json.dumps([_record(operator) for operator in operators]))
        return
    rows = ((operator.name, operator.role, shown_time(operator.created_at_ms)) for operator in operators)
    print_table(("name", "role", "added"), rows)


def _password(*, from_stdin: bool, generate: bool, as_json: bool) -> Password | None:
    """Return the given password, or None if one is to be generated.

    It never comes from an argument, which every user of the machine can read. Raises ``InvalidRequest``, and
    ``Misconfigured`` without a terminal to ask at.
    """
    if from_stdin and generate:
        raise InvalidRequest("give only one of --password-stdin and --generate")
    if from_stdin:
        return _read_password()
    if generate or as_json:
        return None
    if not sys.stdin.isatty():
        raise Misconfigured("there is no terminal to ask for a password: give --password-stdin or --generate")
    password = Password(getpass.getpass("Password: "))
    if Password(getpass.getpass("Once more: ")).reveal() != password.reveal():
        raise InvalidRequest("the two passwords are not the same: try again")
    return password


def _read_password() -> Password:
    raw = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(raw) > _MAX_STDIN_BYTES:
        raise InvalidRequest(f"standard input is too long for a password: it has more than {_MAX_STDIN_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not valid UTF-8: encode the password as UTF-8") from None
    return Password(text.removesuffix("\n").removesuffix("\r"))


def _record(operator: Operator) -> dict[str, object]:
    return {"name": operator.name, "role": operator.role, "created_at_ms": operator.created_at_ms}


def _print_new_password(made: NewPassword, what: str, *, as_json: bool) -> None:
    document = {"name": made.name, "role": made.role}
    if made.password is None:
        print_result(document, what, as_json=as_json)
    else:
        generated = made.password.reveal()
        text = f"{what}; the password, shown only once:\n{generated}"
        print_result(document | {"password": generated}, text, as_json=as_json)
