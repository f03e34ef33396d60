"""On which line of a TOML text each key and array element stands.

``tomllib`` reads the values and forgets the lines. In an array of tables the elements are not told apart.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Final

KeyPath = tuple[str | int, ...]

_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\r]+|\#[^\n]*)
    | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    | (?P<mark>[\[\]{}=,.\n])
    | (?P<bare>[^\s\[\]{}=,.\#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)


def lines(text: str) -> dict[KeyPath, int]:
    """Map the path of each table, key and array element of ``text`` to its line, counted from 1.

    ``text`` must be TOML that ``tomllib`` has accepted: here nothing is checked.
    """
    return _Scan(text).document()


class _Scan:
    """A walk over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._lines: dict[KeyPath, int] = {}

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._peek():
            if self._peek() == "\n":
                self._at += 1
            elif self._peek() == "[":
                self._at += 1
                self._skip("[")
                table = self._key(())
                self._skip("]")
                self._skip("]")
            else:
                self._pair(table)
        return self._lines

    def _pair(self, table: KeyPath) -> None:
        path = self._key(table)
        self._skip("=")
        self._value(path)

    def _key(self, path: KeyPath) -> KeyPath:
        while True:
            token = self._peek()
            name = next(iter(tomllib.loads(f"{token} = 0"))) if token[0] in "\"'" else token
            path = (*path, name)
            self._lines.setdefault(path, self._line())
            self._at += 1
            if not self._skip("."):
                return path

    def _value(self, path: KeyPath) -> None:
        if self._skip("["):
            number = 0
            while not self._skip("]"):
                if self._skip("\n") or self._skip(","):
                    continue
                self._lines[*path, number] = self._line()
                self._value((*path, number))
                number += 1
        elif self._skip("{"):
            while not self._skip("}"):
                if not (self._skip("\n") or self._skip(",")):
                    self._pair(path)
        else:
            while self._peek() not in ("", "\n", ",", "]", "}"):
                self._at += 1

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens) - 1)][1]

    def _skip(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            yield match.group(), line
        line += match.group().count("\n")
