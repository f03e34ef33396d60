"""``keys``: API keys for services."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from app.cli.output import print_result, print_table
from app.cli.setup import JsonOption, StateOption, run_with_services
from app.cli.times import shown_time
from app.model.api_keys import ApiKey, Right

app = typer.Typer(no_args_is_help=True, help="API keys for services.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, as the audit shows it.")]


@app.command("add")
def add_api_key(
    name: NameArgument,
    right: Annotated[
        list[Right],
        typer.Option(metavar="|".join(Right), help="What the key may do; may be repeated. admin includes all."),
    ],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an API key. It is shown only once, now."""
    made = run_with_services(state, lambda services: services.api_keys.add_api_key(name, right, actor=services.actor))
    rights = sorted(made.rights)
    document = {"name": made.name, "rights": rights, "key": made.text.reveal()}
    text = f"{made.name} may {', '.join(rights)}; the key, shown only once:\n{made.text.reveal()}"
    print_result(document, text, as_json=as_json)


@app.command("list")
def list_api_keys(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all keys, without their secrets."""
    api_keys = run_with_services(state, lambda services: services.api_keys.list_api_keys())
    if as_json:
        print(json.dumps([_record(api_key) for api_key in api_keys]))
        return
    rows = (
        (each.name, " ".join(sorted(each.rights)), shown_time(each.created_at_ms), f"mts_{each.id}_")
        for each in api_keys
    )
    print_table(("name", "rights", "added", "begins with"), rows)


@app.command("remove")
def remove_api_key(name: NameArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Remove a key. Every instance refuses the next request with it."""
    run_with_services(state, lambda services: services.api_keys.remove_api_key(name, actor=services.actor))
    print_result({"name": name}, f"{name} is removed", as_json=as_json)


def _record(api_key: ApiKey) -> dict[str, object]:
    return {
        "id": api_key.id,
        "name": api_key.name,
        "rights": sorted(api_key.rights),
        "created_at_ms": api_key.created_at_ms,
    }
