"""The MQTT password ``TYPE|TOKEN|TYPE|TOKEN``: cloud tokens, at most one of each type (FACTS 1).

Callers paste such passwords anywhere, and parts of them too. This is the one place that knows how they look.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from app.model.grants import TokenType
from app.model.secrets import CloudToken

CLOUD_TOKEN: Final = r"[^|]+"  # noqa: S105 (a pattern)
"""A pattern of what the cloud may call a token: anything that does not part the password."""

_TYPES: Final = "|".join(sorted(TokenType, key=len, reverse=True))
_PAIRS: Final = re.compile(rf"(?:{_TYPES})\|{CLOUD_TOKEN}(?:\|(?:{_TYPES})\|{CLOUD_TOKEN})*")
_FIRST_TYPE: Final = re.compile(rf"(?:{_TYPES})\|")
_EACH_TYPE: Final = re.compile(rf"(?:^|\|)(?:{_TYPES})\|")
_QUOTED: Final = re.compile(rf"\b({_TYPES})\|[^\s']+")


class MalformedPassword(ValueError):
    """A text is not a valid MQTT password. It has no message: what the text holds is secret."""


def build_password(tokens: Iterable[tuple[TokenType, CloudToken]]) -> str:
    """Join cloud tokens to the password that goes into MQTT CONNECT."""
    return "|".join(f"{type_}|{token.reveal()}" for type_, token in tokens)


def parse_password(text: str) -> Mapping[TokenType, CloudToken]:
    """Read a password. Raises ``MalformedPassword`` for an unknown or repeated type and for an empty token."""
    if not _PAIRS.fullmatch(text):
        raise MalformedPassword
    parts = text.split("|")
    tokens = {TokenType(type_): CloudToken(token) for type_, token in zip(parts[::2], parts[1::2], strict=True)}
    if len(parts) != 2 * len(tokens):
        raise MalformedPassword  # two tokens of one type
    return tokens


def cloud_tokens_in(text: str) -> list[CloudToken]:
    """Return the cloud tokens in a password or a part of one; a text without a type is taken for a token itself."""
    return [CloudToken(part) for part in _EACH_TYPE.split(text) if part]


def begins_like_password(text: str) -> bool:
    """Return whether a text begins with a type and its separator, as no topic, role or client ID does."""
    return _FIRST_TYPE.match(text) is not None


def without_passwords(text: str) -> str:
    """Return what may be logged of a text that quotes a caller: of a password only the first type is left."""
    return _QUOTED.sub(r"\1|...", text)
