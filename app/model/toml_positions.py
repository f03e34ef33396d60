"""The line of a key in a TOML text. ``tomllib`` reads the values and does not keep the lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

KeyPath = tuple[str | int, ...]

_STRING: Final = r"""\"(?:\\.|[^"\\\n])*\"|'[^'\n]*'"""
_NAME: Final = rf"(?:[A-Za-z0-9_-]+|{_STRING})"
_NAMES: Final = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_HEADER_OR_KEY: Final = re.compile(
    rf"^[ \t]*(?:\[\[?[ \t]*(?P<header>{_NAMES})[ \t]*\]|(?P<key>{_NAMES})[ \t]*=)", re.MULTILINE
)
_ELEMENT: Final = re.compile(rf"#[^\n]*|(?P<element>{_STRING}|[^\s,\[\]#\"']+)")


def line_of(text: str, path: KeyPath) -> int:
    """Return the line, counted from 1, of a table, key or array element of ``text``, which ``tomllib`` has accepted.

    A plain scan for table headers and for keys that begin a line. Where it does not find ``path`` it returns the line
    of the nearest table or key around it, else 1: for a missing key, and for a key inside an inline table. Two cases
    mislead it: a line of a multi-line string that looks like a header or a key, and an array element that is itself an
    array or an inline table, whose parts it counts.
    """
    ends = _ends(text)
    for depth in range(len(path), 0, -1):
        place, step = path[:depth], path[depth - 1]
        if place in ends:
            return _line_at(text, ends[place])
        if isinstance(step, int) and place[:-1] in ends:
            elements = (match.start() for match in _ELEMENT.finditer(text, ends[place[:-1]]) if match["element"])
            return _line_at(text, next(islice(elements, step, None), ends[place[:-1]]))
    return 1


def _ends(text: str) -> Mapping[KeyPath, int]:
    """Map each table and key to where its first header, or the ``=`` after it, ends in ``text``."""
    ends: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for match in _HEADER_OR_KEY.finditer(text):
        try:
            names = _parse_names(match["header"] or match["key"])
        except tomllib.TOMLDecodeError:  # inside a multi-line string
            continue
        path = (*table, *names) if match["key"] else names
        table = table if match["key"] else names
        for depth in range(1, len(path) + 1):
            ends.setdefault(path[:depth], match.end())
    return ends


def _parse_names(dotted: str) -> KeyPath:
    names: list[str] = []
    value: Any = tomllib.loads(f"{dotted} = 0")
    while isinstance(value, dict):
        [(name, value)] = value.items()
        names.append(name)
    return tuple(names)


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
