"""API keys: the rights of a service, and the text by which it authenticates."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from app.model.actors import ACTOR_NAME, Actor
from app.model.secrets import ApiKeyText

ApiKeyId = NewType("ApiKeyId", str)

_TEXT: Final = re.compile(r"mts_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


class Right(StrEnum):
    """What a service may do with its key."""

    INTROSPECT = "introspect"
    REVOKE = "revoke"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A service's key, without its secret. ``created_at_ms`` is Unix time in ms."""

    id: ApiKeyId
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
        """Return whether the key has a right; ``admin`` has all."""
        return right in self.rights or Right.ADMIN in self.rights


def is_api_key_name(text: str) -> bool:
    """Return whether ``text`` is a valid key name: tables, logs and the audit show it."""
    return ACTOR_NAME.fullmatch(text) is not None


def generate_api_key() -> ApiKeyText:
    """Generate a key: an ID, and 256 random bits. The prefix lets scanners for leaked secrets recognize it."""
    return ApiKeyText(f"mts_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}")


def read_api_key_id(text: ApiKeyText) -> ApiKeyId | None:
    """Return the ID in a key's text, or None if the text is not a valid key."""
    match = _TEXT.fullmatch(text.reveal())
    return ApiKeyId(match[1]) if match else None
