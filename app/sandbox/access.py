"""What a connection may do, by how it signed in, and every check of that (FACTS 1 and 2).

A client that signed in with tokens may do what the tokens permit. A client that signed in with a key of the account or
of the device may use every topic. Neither may use a parent topic that does not exist, or anything under ``$``.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.model.topics import MAX_TOPIC_CHARS, covers
from app.sandbox.state import SandboxClock
from app.sandbox.token_table import SandboxToken, TokenStanding, TokenTable

ACCOUNT_INVALID: Final = -1
FORGED: Final = 1
EXPIRED: Final = 2
REVOKED: Final = 3
RESOURCE_MISMATCH: Final = 4
TYPE_MISMATCH: Final = 5

_CODES: Final = {TokenStanding.EXPIRED: EXPIRED, TokenStanding.REVOKED: REVOKED}
_READERS: Final = (TokenType.R, TokenType.RW)
_WRITERS: Final = (TokenType.W, TokenType.RW)

_PARENT_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_P2P: Final = "p2p"
_P2P_LEVELS: Final = 3


@dataclass(frozen=True, slots=True)
class ParentTopics:
    """The parent topics that exist. A parent topic is the first level of a topic; its name ignores case (FACTS 1).

    The cloud's are created in its console; the sandbox's are listed in a setting.
    """

    listed: frozenset[str] | None = None
    """In lower case; ``None`` if every parent topic exists."""

    @classmethod
    def parse_names(cls, names: Iterable[str]) -> Self:
        """Return the parent topics with ``names``; without any, every one exists. Raises ``ValueError``."""
        found = frozenset(names)
        for name in sorted(found):
            if not _PARENT_NAME.fullmatch(name):
                raise ValueError(f"{name!a} is not a valid parent topic: use the characters A-Z a-z 0-9 _ - only")
        return cls(frozenset(name.lower() for name in found) or None)

    def include(self, topic_filter: str) -> bool:
        """Return whether the parent topic of every topic of ``topic_filter`` exists.

        A wildcard in the first level matches parent topics that do not exist, unless every one does.
        """
        return self.listed is None or _parent_of(topic_filter).lower() in self.listed

    @staticmethod
    def is_named(topic_filter: str) -> bool:
        """Return whether ``topic_filter`` names its parent topic: no wildcard, and nothing under ``$``."""
        return _PARENT_NAME.fullmatch(_parent_of(topic_filter)) is not None


def point_to_point_receiver(topic: str) -> str | None:
    """Return the client ID in ``PARENT/p2p/CLIENT``; ``None`` for any other topic (FACTS 1)."""
    levels = topic.split("/")
    return levels[2] if len(levels) == _P2P_LEVELS and levels[1] == _P2P else None


class AccessDenied(Exception):
    """The client may not do this, or no longer; ``$SYS/tokenInvalidNotice`` carries ``code`` and ``type``."""

    def __init__(self, code: int, type_: TokenType) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.type = type_


class ConnectionAccess(ABC):
    """What one connection may do."""

    def __init__(self, parents: ParentTopics, is_registered: Callable[[], bool]) -> None:
        """``is_registered`` returns at any moment whether the group and the credential of the sign-in still exist."""
        self.tokens: dict[TokenType, SandboxToken] = {}
        self._parents = parents
        self._is_registered = is_registered

    @abstractmethod
    def replace_token(self, type_: TokenType, text: CloudToken) -> None:
        """Use ``text`` as the token of ``type_`` from now on. Raises ``AccessDenied``, and then changes nothing."""

    @abstractmethod
    def _covers(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> bool:
        """Return whether the rights of ``types`` cover ``topic_filter``. Raises ``AccessDenied`` if there are none."""

    def require_valid(self) -> None:
        """Raise ``AccessDenied`` unless the sign-in is still valid at this moment."""
        if not self._is_registered():
            raise AccessDenied(ACCOUNT_INVALID, TokenType.RW)

    def require_write(self, topic: str) -> None:
        """Raise ``AccessDenied`` unless a message may be published to ``topic`` at this moment."""
        self._require(_WRITERS, TokenType.W, topic)

    def require_read(self, topic_filter: str) -> None:
        """Raise ``AccessDenied`` unless every topic of ``topic_filter`` may be read at this moment."""
        self._require(_READERS, TokenType.R, topic_filter)

    def is_valid(self) -> bool:
        """Return whether the sign-in is still valid at this moment."""
        return _passes(self.require_valid)

    def may_read(self, topic: str) -> bool:
        """Return whether a message of ``topic`` may be delivered at this moment."""
        return _passes(lambda: self.require_read(topic))

    def may_write(self, topic: str) -> bool:
        """Return whether a message may be published to ``topic`` at this moment."""
        return _passes(lambda: self.require_write(topic))

    def _require(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> None:
        self.require_valid()
        is_covered = self._covers(types, direction, topic_filter)
        # A token may be older than the list of parent topics that the sandbox was started with.
        parent_exists = self._parents.include(topic_filter)
        if not is_covered or not parent_exists or len(topic_filter) > MAX_TOPIC_CHARS:
            raise AccessDenied(RESOURCE_MISMATCH, direction)


class TokenAccess(ConnectionAccess):
    """What a client that signed in with tokens may do.

    It has at most one token of each type: R, W and RW. **All** of them must be valid, or nothing is allowed. An
    uploaded token replaces the one of its own type only: no document says that an RW token makes R and W obsolete, so
    a revoked R token still ends the connection.
    """

    def __init__(
        self,
        parents: ParentTopics,
        is_registered: Callable[[], bool],
        *,
        access_key_id: str,
        tokens: TokenTable,
        clock: SandboxClock,
    ) -> None:
        super().__init__(parents, is_registered)
        self._access_key_id = access_key_id
        self._token_table = tokens
        self._clock = clock

    def replace_token(self, type_: TokenType, text: CloudToken) -> None:
        """Use ``text`` as the token of ``type_`` from now on. Raises ``AccessDenied``, and then changes nothing."""
        token = self._token_table.find_token(text)
        if token is None:
            raise AccessDenied(FORGED, type_)
        if token.access_key_id != self._access_key_id:
            # The user name holds the access key that applied for the token (FACTS 1): a token of another key is not
            # this client's.
            raise AccessDenied(ACCOUNT_INVALID, type_)
        if token.type is not type_:
            raise AccessDenied(TYPE_MISMATCH, type_)
        self._require_valid_token(token)
        self.tokens[type_] = token

    def require_valid(self) -> None:
        """Raise ``AccessDenied`` unless the group exists and every current token is valid at this moment."""
        super().require_valid()
        for token in self.tokens.values():
            self._require_valid_token(token)

    def _covers(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> bool:
        usable = [self.tokens[type_] for type_ in types if type_ in self.tokens]
        if not usable:
            raise AccessDenied(TYPE_MISMATCH, direction)
        # No resource covers what is under $, where notices and tokens travel: ApplyToken refuses resources that begin
        # with $, and wildcards do not match it (MQTT 3.1.1 section 4.7.2).
        return any(covers(resource, topic_filter) for token in usable for resource in token.resources)

    def _require_valid_token(self, token: SandboxToken) -> None:
        standing = self._token_table.standing(token, self._clock.now_ms())
        if standing is not TokenStanding.VALID:
            raise AccessDenied(_CODES[standing], token.type)


class KeyAccess(ConnectionAccess):
    """What a client that signed in with a key may do: use every topic whose parent topic is named."""

    def replace_token(self, type_: TokenType, text: CloudToken) -> None:  # noqa: ARG002 (no token is accepted)
        """Raise ``AccessDenied``: a client that did not sign in with tokens has none to replace."""
        raise AccessDenied(TYPE_MISMATCH, type_)

    def _covers(self, _types: tuple[TokenType, ...], _direction: TokenType, topic_filter: str) -> bool:
        return ParentTopics.is_named(topic_filter)


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except AccessDenied:
        return False
    return True


def _parent_of(topic_filter: str) -> str:
    return topic_filter.partition("/")[0]


def parse_token_upload(payload: bytes) -> tuple[TokenType, CloudToken]:
    """Return the type and the token of a message to ``$SYS/uploadToken``. Raises ``AccessDenied``.

    The field is ``token`` in the Chinese documents and ``Token`` in the English ones.
    """
    try:
        body = json.loads(payload)
        type_ = TokenType(body["type"])
        text = body["token"] if "token" in body else body["Token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AccessDenied(FORGED, TokenType.RW) from None
    if not isinstance(text, str):
        raise AccessDenied(FORGED, type_)
    return type_, CloudToken(text)
