"""How verbs print: text for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

Report = Callable[[str, str], None]
"""Prints one step of a verb: its name, and what happened."""

_FIELD_CHARS: Final = 14


def print_result(document: object, text: str, *, as_json: bool) -> None:
    """Print the result of a verb: ``document`` as one line of JSON for machines, or ``text`` for people."""
    print(json.dumps(document) if as_json else text)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print a record, one field per line."""
    for name, value in fields.items():
        print(f"{name:<{_FIELD_CHARS}} {value}".rstrip())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the width of the terminal."""
    from rich.console import Console  # noqa: PLC0415 - `--help` stays quick
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_more_exist(limit: int, *, more: bool) -> None:
    """Say that a list was cut, on standard error for machines too: they must not take a part for the whole."""
    if more:
        print(f"and more: --limit {limit} was reached", file=sys.stderr)


def report_text(step: str, text: str) -> None:
    """Print one step for people."""
    print(f"{step:<11} {text}", flush=True)


def report_json(step: str, text: str) -> None:
    """Print one step for machines."""
    print(json.dumps({"what": step, "text": text}), flush=True)


def count_of_tokens(count: int) -> str:
    """Return ``1 token`` or ``1,234 tokens``."""
    return "1 token" if count == 1 else f"{count:,} tokens"
