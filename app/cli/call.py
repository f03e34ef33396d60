"""``call``: any action of the cloud's API, against the sandbox or the cloud, and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from app.cli.setup import JsonOption, StateOption, open_cloud, settings
from app.errors import Misconfigured
from app.rpc.catalog import ACTIONS, Action
from app.rpc.parameters import problems
from app.settings import Settings

ANSWER_WITHIN_S: Final = 30.0

CONTEXT: Final[dict[str, Any]] = {"ignore_unknown_options": True, "allow_extra_args": True}
"""What typer does not know is a parameter of the action."""


class AnswerFormat(StrEnum):
    """What the answer is asked for in (guide chapter 7)."""

    JSON = "json"
    XML = "xml"


def call(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="ACTION", help="Left out: all actions are listed.", show_default=False)
    ] = "",
    form: Annotated[
        AnswerFormat, typer.Option("--format", help="Ask for the answer as JSON or XML.")
    ] = AnswerFormat.JSON,
    raw: Annotated[bool, typer.Option("--raw", help="Print the answer's very bytes.")] = False,
    show_signing: Annotated[
        bool, typer.Option("--show-signing", help="Print the string to sign and the signature.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Send what the action would refuse, public parameters included.")
    ] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
    wants_help: Annotated[
        bool, typer.Option("--help", help="Describe the verb, or ACTION with its parameters.")
    ] = False,
) -> None:
    """Call ACTION with --PARAMETER VALUE, named as in the guide, and print what the cloud answers.

    InstanceId and RegionId are the set-up's where they are left out; a list is --ClientIdList A --ClientIdList B.
    """
    from app.cli import call_print  # noqa: PLC0415 - `--help` of other verbs stays quick
    from app.cloud.exchange import Received, Sent  # noqa: PLC0415

    if wants_help and not name:
        typer.echo(context.get_help())
        return
    if not name:
        print(call_print.actions())
        return
    action = _action(name)
    if wants_help:
        print(call_print.parameters(action))
        return
    if as_json and (form is AnswerFormat.XML or raw):
        raise Misconfigured("--json is for JSON alone: leave out --format xml and --raw")
    parameters = parse(action, context.args, anyway=anyway)
    sent: list[bytes] = []
    answer = asyncio.run(_call(settings(state), action, parameters, form, sent))
    shown = call_print.CallPrinter(Received(action, answer), Sent(sent[0]) if show_signing else None)
    if raw:
        shown.print_raw()
    elif as_json:
        shown.print_for_machines()
    else:
        shown.print_for_people()
    if shown.refusal is not None:
        raise typer.Exit(1)


def parse(action: Action, arguments: Iterable[str], *, anyway: bool) -> dict[str, str]:
    """Read ``--NAME VALUE`` and ``--NAME=VALUE`` into parameters; a list's name may be repeated instead of numbered.

    Raises ``Misconfigured`` for what the catalog would not accept, unless ``anyway``.
    """
    lists = {parameter.name for parameter in action.parameters if parameter.kind == "RepeatList"}
    parameters: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--") or word == "--":
            raise Misconfigured(f"{word}: write --PARAMETER VALUE")
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals and (value := next(words, None)) is None:  # type: ignore[assignment]  # None is refused here
            raise Misconfigured(f"--{name} needs a value")
        if name in lists:
            name = next(f"{name}.{n}" for n in range(1, len(parameters) + 2) if f"{name}.{n}" not in parameters)
        if name in parameters:
            raise Misconfigured(f"--{name} is there twice")
        parameters[name] = value
    if not anyway and (wrong := problems(action, parameters)):
        raise Misconfigured(f"{'; '.join(wrong)} (`call {action.name} --help` lists all; --anyway sends it as it is)")
    return parameters


def _action(name: str) -> Action:
    if name not in ACTIONS:
        names = {each.lower(): each for each in ACTIONS}
        close = get_close_matches(name.lower(), names, 1)
        hint = f": did you mean {names[close[0]]}?" if close else ": `call` alone lists them"
        raise Misconfigured(f"{name} is no action of the guide{hint}")
    return ACTIONS[name]


async def _call(
    setup: Settings, action: Action, parameters: dict[str, str], form: AnswerFormat, sent: list[bytes]
) -> Any:
    async with open_cloud(setup) as cloud:
        return await cloud.call(
            action.name,
            parameters,
            deadline=asyncio.get_running_loop().time() + ANSWER_WITHIN_S,
            format_="XML" if form is AnswerFormat.XML else "JSON",
            checked=False,
            sending=sent.append,
        )
