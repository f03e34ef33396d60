"""API keys: the rights of a service, and the text by which it authenticates."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from app.model.actors import Actor
from app.model.secrets import ApiKeyText

KeyId = NewType("KeyId", str)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TEXT: Final = re.compile(r"mts_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


class Right(StrEnum):
    """What a service may do with its key."""

    INTROSPECT = "introspect"
    REVOKE = "revoke"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A service's key, without its secret. ``created_at_ms`` is Unix time in ms."""

    id: KeyId
    name: str
    rights: frozenset[Right]
    created_at_ms: int

    @property
    def actor_name(self) -> str:
        """The service's name in the audit."""
        return f"key:{self.name}"

    def as_actor(self, request_id: str = "") -> Actor:
        """Return the service that holds it as who acts in a request."""
        return Actor(self.actor_name, request_id)

    def may(self, right: Right) -> bool:
        """Tell whether the key has a right; ``admin`` has all."""
        return right in self.rights or Right.ADMIN in self.rights


def is_api_key_name(text: str) -> bool:
    """Tell whether ``text`` is a valid key name: tables, logs and the audit show it."""
    return _NAME.fullmatch(text) is not None


def draw_text() -> ApiKeyText:
    """Draw a new key: an ID, and 256 random bits. The prefix lets scanners of leaked secrets know it."""
    return ApiKeyText(f"mts_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}")


def id_of(text: ApiKeyText) -> KeyId | None:
    """Return the ID that a key's text names, or None if it is no key's text."""
    match = _TEXT.fullmatch(text.reveal())
    return KeyId(match[1]) if match else None
