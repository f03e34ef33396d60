"""Globs: texts with ``*`` (any characters, also none) and ``?`` (one character)."""

from __future__ import annotations

import re
from typing import Final

CLIENT_ID_GLOB: Final = re.compile(r"[A-Za-z0-9_.@:*-]+")
"""A glob over client IDs: their characters and ``*``."""

_CLIENT_IDS: Final = ("GID_*@@@*", "GID-*@@@*")


def glob_matches(glob: str, text: str) -> bool:
    """Return whether ``glob`` matches the whole of ``text``.

    Only the last ``*`` is ever tried again, so the number of steps is at most the product of the two lengths, whatever
    the author of a policy or a caller sends.
    """
    glob_at = text_at = 0
    star_at, resume_at = -1, 0
    while text_at < len(text):
        character = glob[glob_at : glob_at + 1]
        if character == "*":
            star_at, resume_at = glob_at, text_at
            glob_at += 1
        elif character in ("?", text[text_at]):
            glob_at += 1
            text_at += 1
        elif star_at >= 0:
            resume_at += 1
            glob_at, text_at = star_at + 1, resume_at
        else:
            return False
    return not glob[glob_at:].strip("*")


def may_overlap(one: str, other: str) -> bool:
    """Return whether some client ID may match both globs (``*`` alone), by what they begin and end with.

    ``False`` is always right. ``True`` is too much where a common text exists that is not a valid client ID: one longer
    than 64 characters, one with a character of the device ID in its group ID, or one without ``@@@``.
    """
    if "*" not in one:
        return glob_matches(other, one)
    if "*" not in other:
        return glob_matches(one, other)
    heads = sorted((one.partition("*")[0], other.partition("*")[0]), key=len)
    tails = sorted((one.rpartition("*")[2], other.rpartition("*")[2]), key=len)
    return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])


def may_match_client_id(glob: str) -> bool:
    """Return whether some client ID may match ``glob``; as exact as ``may_overlap``."""
    return any(may_overlap(glob, client_ids) for client_ids in _CLIENT_IDS)
