"""Operators: the people at the console, their roles, and what is a valid password."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.model.actors import ACTOR_NAME, Actor
from app.model.secrets import Password

MIN_PASSWORD_CHARS: Final = 10
MAX_PASSWORD_CHARS: Final = 256

_MAX_TYPED_CHARS: Final = 4 * MAX_PASSWORD_CHARS
"""Longer texts are not processed. Normalizing may make one character of several typed ones."""


class OperatorRole(StrEnum):
    """What an operator may do: only look; also act on devices and tokens; everything."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: OperatorRole) -> bool:
        """Return whether this role may do all that ``needed`` may: each role includes the ones before it."""
        ranks = list(OperatorRole)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, without the password. ``created_at_ms`` is Unix time in ms."""

    name: str
    role: OperatorRole
    created_at_ms: int

    @property
    def actor_name(self) -> str:
        """The operator's name in the audit."""
        return f"operator:{self.name}"

    def as_actor(self, request_id: str = "") -> Actor:
        """Return them as who acts in a request."""
        return Actor(self.actor_name, request_id)


def is_operator_name(text: str) -> bool:
    """Return whether ``text`` is a valid operator name: pages, tables, logs and the audit show it."""
    return ACTOR_NAME.fullmatch(text) is not None


def generate_password() -> Password:
    """Generate a password of 128 random bits."""
    return Password(secrets.token_urlsafe(16))


def normalize_password(password: Password) -> Password | None:
    """Return the password as it is hashed, or None if it is too short, too long or not valid Unicode.

    NFKC, so that a password typed on another keyboard is the same (NIST SP 800-63B-4 section 3.1.1.2).
    """
    typed = password.reveal()
    # Normalizing a megabyte would let a stranger use up the processor.
    if len(typed) > _MAX_TYPED_CHARS:
        return None
    text = unicodedata.normalize("NFKC", typed)
    if not MIN_PASSWORD_CHARS <= len(text) <= MAX_PASSWORD_CHARS:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which a form or a terminal can hold
        return None
    return Password(text)
