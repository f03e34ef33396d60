"""Globs over client IDs with ``*`` alone: whether one matches, and whether two can match the same client ID."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Final

from app.model.devices import MAX_CLIENT_ID_CHARS, ClientId

GLOB: Final = re.compile(r"[A-Za-z0-9_.@:*-]+")
"""What a glob may hold: the characters of client IDs, and ``*``."""

_State = tuple[str, str, int]
"""What is left of either glob, and how far the client ID has come."""

_WORD: Final = frozenset(string.ascii_letters + string.digits + "_-")
_GROUP_BEGINS: Final = ("G", "I", "D", "_-")
_MIN_GROUP_CHARS: Final = 7
_SEPARATED: Final = -3
_DEVICE: Final = -4


def matches(glob: str, text: str) -> bool:
    """Tell whether ``glob`` matches the whole of ``text``; ``*`` stands for any characters, also none."""
    head, *middle = glob.split("*")
    if not middle:
        return glob == text
    tail = middle.pop()
    if not text.startswith(head) or len(text) < len(head) + len(tail) or not text.endswith(tail):
        return False
    rest = text[len(head) : len(text) - len(tail)]
    for piece in middle:  # the leftmost place leaves the most for the pieces after it
        _, found, after = rest.partition(piece) if piece else ("", "*", rest)
        if not found:
            return False
        rest = after
    return True


def common_client_id(one: str, other: str) -> ClientId | None:
    """Return a client ID that both globs match, or ``None`` if there is none.

    Exact: both globs and the grammar of client IDs are walked side by side, one character of all possible client IDs
    at a time, up to the length at which client IDs end.
    """
    frontier: dict[_State, str] = {(one, other, 0): ""}
    for _ in range(MAX_CLIENT_ID_CHARS + 1):
        frontier = _without_stars(frontier)
        if ("", "", _DEVICE) in frontier:
            return ClientId(frontier["", "", _DEVICE])
        frontier = {
            state: prefix + character
            for (left, right, place), prefix in frontier.items()
            for character, state in _steps(left, right, place)
        }
    return None


def _without_stars(frontier: dict[_State, str]) -> dict[_State, str]:
    """Add the states in which a leading ``*`` has matched all it will."""
    known = dict(frontier)
    waiting = list(frontier)
    while waiting:
        left, right, place = state = waiting.pop()
        ended = [(left[1:], right, place)] if left.startswith("*") else []
        if right.startswith("*"):
            ended.append((left, right[1:], place))
        for after in ended:
            if after not in known:
                known[after] = known[state]
                waiting.append(after)
    return known


def _steps(left: str, right: str, place: int) -> Iterator[tuple[str, _State]]:
    """Yield each next character worth trying, and the state it leads to."""
    if not left or not right:
        return
    # Where both globs have a star, one character of each kind that the grammar tells apart stands for all. Of two ways
    # to the same state the last stays: a letter, which reads best in an example.
    literals = {glob[0] for glob in (left, right)} - {"*"}
    for character in literals or "@_DIGa":
        after = _advance(place, character)
        if after is not None and literals <= {character}:
            yield character, (left if left[0] == "*" else left[1:], right if right[0] == "*" else right[1:], after)


def _advance(place: int, character: str) -> int | None:
    """Return where ``character`` leads in ``GID_group@@@device``.

    0 and up counts the characters of the group ID, -1 to -3 those of the separator; -4 is inside the device part.
    """
    if 0 <= place < len(_GROUP_BEGINS):
        return place + 1 if character in _GROUP_BEGINS[place] else None
    if place > 0 and character in _WORD:
        return place + 1
    if place >= _MIN_GROUP_CHARS or _SEPARATED < place < 0:
        return min(place, 0) - 1 if character == "@" else None
    if place <= _SEPARATED:
        return _DEVICE if character in _WORD or character in ".@:" else None
    return None
