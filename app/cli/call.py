"""``call``: calls any action of the cloud's API, at the cloud or at the sandbox, and prints the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.setup import JsonOption, StateOption, open_cloud, settings
from app.errors import Misconfigured
from app.rpc.catalog import ACTIONS, Action
from app.rpc.parameters import problems
from app.settings import Settings

if TYPE_CHECKING:
    from app.cli.call_print import CallPrinter

ANSWER_WITHIN_S: Final = 30.0

CONTEXT: Final[dict[str, Any]] = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Options that typer does not know are parameters of the action."""


class AnswerFormat(StrEnum):
    """The format of the answer (guide chapter 7)."""

    JSON = "json"
    XML = "xml"


@dataclass(frozen=True)
class _Call:
    """One call as the command line describes it."""

    action: Action
    parameters: dict[str, str]
    answer_format: AnswerFormat
    shows_signing: bool


def run_call(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="ACTION", help="Without it, all actions are listed.", show_default=False)
    ] = "",
    answer_format: Annotated[
        AnswerFormat, typer.Option("--format", help="Format in which the cloud answers.")
    ] = AnswerFormat.JSON,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bytes of the answer unchanged.")] = False,
    show_signing: Annotated[
        bool, typer.Option("--show-signing", help="Print the string to sign and the signature.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Do not check the parameters; allow public parameters too.")
    ] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
    wants_help: Annotated[
        bool, typer.Option("--help", help="Describe this verb, or ACTION and its parameters.")
    ] = False,
) -> None:
    """Call an action of the cloud's API, and print the answer. Write its parameters as --PARAMETER VALUE.

    InstanceId and RegionId default to those of the settings. Write a list as --ClientIdList A --ClientIdList B.
    """
    from app.cli import call_print  # noqa: PLC0415 - `--help` of other verbs stays quick

    if not name:
        typer.echo(context.get_help() if wants_help else call_print.list_actions())
        return
    action = _find_action(name)
    if wants_help:
        print(call_print.describe_action(action))
        return
    if as_json and (answer_format is AnswerFormat.XML or raw):
        raise Misconfigured("--json cannot be combined with --format xml or --raw: leave one of them out")
    call = _Call(action, parse_parameters(action, context.args, anyway=anyway), answer_format, show_signing)
    printer = asyncio.run(_send(call, settings(state)))
    print_answer = printer.print_raw if raw else printer.print_for_machines if as_json else printer.print_for_people
    print_answer()
    if printer.refusal is not None:
        raise typer.Exit(1)


async def _send(call: _Call, settings: Settings) -> CallPrinter:
    from app.cli.call_print import CallPrinter  # noqa: PLC0415
    from app.cloud.exchange import Received, Sent  # noqa: PLC0415

    forms: list[bytes] = []
    async with open_cloud(settings) as cloud:
        answer = await cloud.call(
            call.action.name,
            call.parameters,
            deadline=asyncio.get_running_loop().time() + ANSWER_WITHIN_S,
            format_="XML" if call.answer_format is AnswerFormat.XML else "JSON",
            checked=False,
            sending=forms.append,
        )
    return CallPrinter(Received(call.action, answer), Sent(forms[0]) if call.shows_signing else None)


def parse_parameters(action: Action, arguments: Iterable[str], *, anyway: bool) -> dict[str, str]:
    """Read ``--NAME VALUE`` and ``--NAME=VALUE`` as parameters; the name of a list may be repeated or numbered.

    Raises ``Misconfigured``, also for what the catalog does not allow, unless ``anyway``.
    """
    lists = {parameter.name for parameter in action.parameters if parameter.kind == "RepeatList"}
    parameters: dict[str, str] = {}
    for name, value in _name_value_pairs(arguments):
        numbered = _next_number(name, parameters) if name in lists else name
        if numbered in parameters:
            raise Misconfigured(f"--{name} is given twice: leave one out")
        parameters[numbered] = value
    if not anyway and (wrong := problems(action, parameters)):
        raise Misconfigured(
            f"{'; '.join(wrong)} (`call {action.name} --help` lists the parameters; --anyway sends them unchecked)"
        )
    return parameters


def _name_value_pairs(arguments: Iterable[str]) -> Iterable[tuple[str, str]]:
    words = iter(arguments)
    for word in words:
        if not word.startswith("--") or word == "--":
            raise Misconfigured(f"{word}: write --PARAMETER VALUE")
        name, equals, value = word.removeprefix("--").partition("=")
        following = value if equals else next(words, None)
        if following is None:
            raise Misconfigured(f"--{name} has no value: write --{name} VALUE")
        yield name, following


def _next_number(name: str, parameters: dict[str, str]) -> str:
    """Return ``NAME.N`` with the first number that is free."""
    return next(f"{name}.{n}" for n in range(1, len(parameters) + 2) if f"{name}.{n}" not in parameters)


def _find_action(name: str) -> Action:
    if name not in ACTIONS:
        names = {each.lower(): each for each in ACTIONS}
        close = get_close_matches(name.lower(), names, 1)
        hint = f"did you mean {names[close[0]]}?" if close else "`call` without an action lists them"
        raise Misconfigured(f"there is no action {name}: {hint}")
    return ACTIONS[name]
