"""``keys``: API keys for services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.cli.setup import JsonOption, StateOption, open_admin_services, settings
from app.cli.times import shown_time
from app.model.api_keys import ApiKey, Right

if TYPE_CHECKING:
    from app.assembly import AdminServices

_Result = TypeVar("_Result")

app = typer.Typer(no_args_is_help=True, help="API keys for services.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, as the audit will name it.")]


@app.command()
def add(
    name: NameArgument,
    right: Annotated[list[Right], typer.Option(help="What it may do; repeatable. admin may do all.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key. It is shown this once."""
    made = _do(state, lambda office: office.api_keys.add_api_key(name, right, actor=office.actor))
    rights = sorted(made.rights)
    if as_json:
        print(json.dumps({"name": made.name, "rights": rights, "key": made.text.reveal()}))
    else:
        print(f"{made.name} may {', '.join(rights)}; the key, shown this once:\n{made.text.reveal()}")


@app.command("list")
def list_keys(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all keys, without their secrets."""
    keys = _do(state, lambda office: office.api_keys.list_api_keys())
    if as_json:
        print(json.dumps([_record(key) for key in keys]))
        return
    from rich.console import Console  # noqa: PLC0415 - a table is for people alone
    from rich.table import Table  # noqa: PLC0415

    table = Table("name", "rights", "made", "begins with", box=None, pad_edge=False)
    for key in keys:
        table.add_row(key.name, " ".join(sorted(key.rights)), shown_time(key.created_at_ms), f"mts_{key.id}_")
    Console().print(table)


@app.command()
def remove(name: NameArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Remove a key: the very next request with it is refused, at every instance."""
    _do(state, lambda office: office.api_keys.remove_api_key(name, actor=office.actor))
    print(json.dumps({"name": name}) if as_json else f"{name} is removed")


def _record(key: ApiKey) -> dict[str, object]:
    return {"id": key.id, "name": key.name, "rights": sorted(key.rights), "created_at_ms": key.created_at_ms}


def _do(state: Path | None, verb: Callable[[AdminServices], Awaitable[_Result]]) -> _Result:
    async def run() -> _Result:
        async with open_admin_services(settings(state)) as office:
            return await verb(office)

    return asyncio.run(run())
