"""Lua scripts: their text, and their named arguments.

A script binds the names of its keys and arguments in its first lines, and the caller passes the values by these names.
What is sent is positional, as Redis wants it. ::

    local queue = unpack(KEYS)
    local priority, actor = unpack(ARGV, 2)
    local handles = {unpack(ARGV, 4)}

The last line is for a script that takes any number of something: its caller passes a sequence. ``ARGV[1]`` is always
the clock's shift (``_base.lua``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from operator import itemgetter
from typing import Any, Final, get_args

from app.model.actors import CLOUD, SERVER
from app.store import constants
from app.store.records import Priority, RevocationState, TokenState

Value = str | int

CONSTANTS: Final[Mapping[str, str | float]] = {
    **{name: value for name, value in vars(constants).items() if name.isupper()},
    **{f"PRIORITY_{priority.name}": priority.value for priority in Priority},
    **{state.upper(): state for state in (*get_args(TokenState), *get_args(RevocationState))},
    "SERVER": SERVER.name,
    "CLOUD": CLOUD.name,
}
"""What every script knows by name."""

_CONSTANTS: Final = "".join(f"local {name} = {value!r}\n" for name, value in CONSTANTS.items())

_NAMED: Final = r"^local ((?:\w+,\s+)*\w+) = unpack\({table}(?:, (\d+))?\)$"
_SEQUENCE: Final = r"^local (\w+) = \{{unpack\({table}(?:, (\d+))?\)\}}$"


class Parameters:
    """The named keys or arguments of a script, in their order."""

    def __init__(self, text: str, table: str, *, first: int) -> None:
        """Read the names that ``text`` binds to ``table``, ``KEYS`` or ``ARGV``, from position ``first``.

        Raises ``ValueError`` if the positions in the text do not fit the names.
        """
        named = re.search(_NAMED.format(table=table), text, re.MULTILINE)
        sequence = re.search(_SEQUENCE.format(table=table), text, re.MULTILINE)
        self.names: Final = tuple(re.split(r",\s+", named[1])) if named else ()
        self.sequence: Final = sequence[1] if sequence else None
        if named and int(named[2] or 1) != first:
            raise ValueError(f"{named[0]}: {table} begins at {first}")
        if sequence and int(sequence[2] or 1) != first + len(self.names):
            raise ValueError(f"{sequence[0]}: the sequence begins at {first + len(self.names)}")
        self._count: Final = len(self.names) + (sequence is not None)
        self._pick: Final = _picker(self.names)

    def order(self, values: Mapping[str, Any]) -> tuple[Value, ...]:
        """Return the values by position. Raises ``TypeError`` if a name is missing or unknown."""
        if len(values) == self._count:
            try:
                picked = self._pick(values)
                return picked if self.sequence is None else (*picked, *values[self.sequence])
            except KeyError:
                pass
        expected = {*self.names, *([self.sequence] if self.sequence else [])}
        missing, unknown = sorted(expected - values.keys()), sorted(values.keys() - expected)
        raise TypeError(f"a script's arguments: missing {missing}, unknown {unknown}")


@dataclass(frozen=True)
class Script:
    """A Lua script of this package, run in one round trip.

    ``may_oom`` lets it run when Redis is full: revoking must always work. ``prelude`` is the file of what it shares
    with others of its kind: each run pays for what is in it.
    """

    name: str
    may_oom: bool = False
    prelude: str = "_shared"

    @cached_property
    def text(self) -> str:
        """The script: its flags, what all scripts share, what those of its kind share, its own steps."""
        package = files("app.store")
        flags = "#!lua flags=allow-oom\n" if self.may_oom else "#!lua\n"
        parts = ("_base", self.prelude, self.name)
        return (
            flags + _CONSTANTS + "".join(package.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in parts)
        )

    @cached_property
    def sha(self) -> str:
        """The name under which Redis knows the script."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def keys(self) -> Parameters:
        """The script's keys."""
        return Parameters(self.text, "KEYS", first=1)

    @cached_property
    def arguments(self) -> Parameters:
        """The script's arguments after the clock's shift."""
        return Parameters(self.text, "ARGV", first=2)

    def command(
        self, keys: Mapping[str, str | Sequence[str]], arguments: Mapping[str, Any], *, shift_ms: int
    ) -> tuple[Value, ...]:
        """Return the command that runs the script. Raises ``TypeError`` if a name is missing or unknown."""
        ordered = self.keys.order(keys)
        return ("EVALSHA", self.sha, len(ordered), *ordered, shift_ms, *self.arguments.order(arguments))


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Value, ...]]:
    """Return a function that picks the values of these names, as cheaply as it can be done at each call."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)
