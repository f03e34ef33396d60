"""``operators``: people for the console."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from app.cli.setup import JsonOption, StateOption, open_admin_services, settings
from app.cli.times import shown_time
from app.errors import InvalidRequest, Misconfigured
from app.model.operators import Operator, OperatorRole
from app.model.secrets import Password

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.operators import NewPassword

_Result = TypeVar("_Result")

_MAX_STDIN_BYTES: Final = 4096
"""More than any password has."""

app = typer.Typer(no_args_is_help=True, help="People for the console.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name they sign in with, and the audit knows.")]
RoleOption = Annotated[
    OperatorRole, typer.Option(help="viewer looks, operator acts on devices and tokens, admin may do all.")
]
StdinOption = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
GenerateOption = Annotated[bool, typer.Option("--generate", help="Draw a password, and show it this once.")]


@app.command()
def add(
    name: NameArgument,
    role: RoleOption,
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an operator. The password is asked for; with --json one is drawn."""
    password = _password(from_stdin=password_stdin, draw=generate, as_json=as_json)
    made = _do(state, lambda office: office.operators.add_operator(name, role, password, actor=office.actor))
    _show_made(made, f"{made.name} is added as {made.role}", as_json=as_json)


@app.command()
def passwd(
    name: NameArgument,
    password_stdin: StdinOption = False,
    generate: GenerateOption = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an operator another password, and log them out everywhere. It is asked for; with --json one is drawn."""
    password = _password(from_stdin=password_stdin, draw=generate, as_json=as_json)
    made = _do(state, lambda office: office.operators.set_password(name, password, actor=office.actor))
    _show_made(made, f"{made.name} has another password, and is logged out everywhere", as_json=as_json)


@app.command()
def role(name: NameArgument, role: RoleOption, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Give an operator another role, and log them out everywhere."""
    _do(state, lambda office: office.operators.set_role(name, role, actor=office.actor))
    print(json.dumps({"name": name, "role": role}) if as_json else f"{name} is {role} now, and logged out everywhere")


@app.command()
def remove(name: NameArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Remove an operator, and log them out everywhere."""
    _do(state, lambda office: office.operators.remove_operator(name, actor=office.actor))
    print(json.dumps({"name": name}) if as_json else f"{name} is removed")


@app.command("list")
def list_operators(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all operators."""
    operators = _do(state, lambda office: office.operators.list_operators())
    if as_json:
        print(json.dumps([_record(operator) for operator in operators]))
        return
    from rich.console import Console  # noqa: PLC0415 - a table is for people alone
    from rich.table import Table  # noqa: PLC0415

    table = Table("name", "role", "added", box=None, pad_edge=False)
    for operator in operators:
        table.add_row(operator.name, operator.role, shown_time(operator.created_at_ms))
    Console().print(table)


def _password(*, from_stdin: bool, draw: bool, as_json: bool) -> Password | None:
    """Return the password as it is given, or None to have one drawn; never from an argument, which all users see.

    Raises ``InvalidRequest``, and ``Misconfigured`` where nobody can be asked.
    """
    if from_stdin and draw:
        raise InvalidRequest("--password-stdin and --generate: take one of them")
    if from_stdin:
        return _read_stdin()
    if draw or as_json:
        return None
    if not sys.stdin.isatty():
        raise Misconfigured("there is no terminal to ask for a password: take --password-stdin or --generate")
    password = Password(getpass.getpass("Password: "))
    if Password(getpass.getpass("Once more: ")).reveal() != password.reveal():
        raise InvalidRequest("the two passwords are not the same: try again")
    return password


def _read_stdin() -> Password:
    raw = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(raw) > _MAX_STDIN_BYTES:
        raise InvalidRequest("what came by standard input is too long for a password")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("what came by standard input is no UTF-8") from None
    return Password(text.removesuffix("\n").removesuffix("\r"))


def _record(operator: Operator) -> dict[str, object]:
    return {"name": operator.name, "role": operator.role, "created_at_ms": operator.created_at_ms}


def _show_made(made: NewPassword, what: str, *, as_json: bool) -> None:
    drawn = made.password.reveal() if made.password else None
    if as_json:
        print(json.dumps({"name": made.name, "role": made.role} | ({"password": drawn} if drawn else {})))
    elif drawn:
        print(f"{what}; the password, shown this once:\n{drawn}")
    else:
        print(what)


def _do(state: Path | None, verb: Callable[[AdminServices], Awaitable[_Result]]) -> _Result:
    async def run() -> _Result:
        async with open_admin_services(settings(state)) as office:
            return await verb(office)

    return asyncio.run(run())
