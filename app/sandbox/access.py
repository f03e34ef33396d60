"""What a connection may do, by how it signed in, and every decision that is taken by that (FACTS 1 and 2).

Whoever signed in with tokens may do what they permit; whoever signed in with a key of the account or of the device may
use every topic. Neither reaches a parent topic that is not there, or anything under ``$``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.model.topics import MAX_TOPIC_CHARS, covers
from app.sandbox.clock import Clock
from app.sandbox.parents import ParentTopics
from app.sandbox.state import Standing, State, Token

ACCOUNT_INVALID: Final = -1
FORGED: Final = 1
EXPIRED: Final = 2
REVOKED: Final = 3
RESOURCE_MISMATCH: Final = 4
TYPE_MISMATCH: Final = 5

_CODES: Final = {Standing.EXPIRED: EXPIRED, Standing.REVOKED: REVOKED}
_READERS: Final = (TokenType.R, TokenType.RW)
_WRITERS: Final = (TokenType.W, TokenType.RW)


class Denied(Exception):
    """Not allowed, or no longer; ``code`` and ``type`` are what ``$SYS/tokenInvalidNotice`` tells."""

    def __init__(self, code: int, type_: TokenType) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.type = type_


class Access(ABC):
    """The rights of one connection."""

    def __init__(self, parents: ParentTopics, known: Callable[[], bool]) -> None:
        """``known`` tells at any moment whether whoever signed in still could: group and credential are there."""
        self.tokens: dict[TokenType, Token] = {}
        self._parents = parents
        self._known = known

    @abstractmethod
    def put(self, type_: TokenType, text: CloudToken) -> None:
        """Let ``text`` take the slot of ``type_``. Raises ``Denied``, and then nothing has changed."""

    @abstractmethod
    def _covers(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> bool:
        """Tell whether what is of ``types`` covers ``topic_filter``. Raises ``Denied`` if nothing is of them."""

    def require_valid(self) -> None:
        """Raise ``Denied`` unless whoever signed in is still good for it at this moment."""
        if not self._known():
            raise Denied(ACCOUNT_INVALID, TokenType.RW)

    def require_write(self, topic: str) -> None:
        """Raise ``Denied`` unless a message may be published to ``topic`` at this moment."""
        self._require(_WRITERS, TokenType.W, topic)

    def require_read(self, topic_filter: str) -> None:
        """Raise ``Denied`` unless every topic of ``topic_filter`` may be read at this moment."""
        self._require(_READERS, TokenType.R, topic_filter)

    def is_valid(self) -> bool:
        """Tell whether whoever signed in is still good for it at this moment."""
        return _permits(self.require_valid)

    def may_read(self, topic: str) -> bool:
        """Tell whether a message of ``topic`` may be delivered at this moment."""
        return _permits(lambda: self.require_read(topic))

    def may_write(self, topic: str) -> bool:
        """Tell whether a message may be published to ``topic`` at this moment."""
        return _permits(lambda: self.require_write(topic))

    def _require(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> None:
        self.require_valid()
        covered = self._covers(types, direction, topic_filter)
        # A token may be older than the list of parent topics that the sandbox runs with now.
        there = self._parents.has(topic_filter)
        if not covered or not there or len(topic_filter) > MAX_TOPIC_CHARS:
            raise Denied(RESOURCE_MISMATCH, direction)


class TokenAccess(Access):
    """The rights of whoever signed in with tokens.

    There are three slots, R, W and RW, each for one token at most. **All** tokens in the slots must be valid, or
    nothing is allowed. Uploading a token replaces that of its own slot and no other: an RW token does not release R
    and W, because nothing documents that it would, and the connection then lives as if it did not.
    """

    def __init__(
        self, state: State, clock: Clock, parents: ParentTopics, known: Callable[[], bool], access_key_id: str
    ) -> None:
        super().__init__(parents, known)
        self._state = state
        self._clock = clock
        self._access_key_id = access_key_id

    def put(self, type_: TokenType, text: CloudToken) -> None:
        """Let ``text`` take the slot of ``type_``. Raises ``Denied``, and then nothing has changed."""
        token = self._state.find(text)
        if token is None:
            raise Denied(FORGED, type_)
        if token.access_key_id != self._access_key_id:
            # The user name tells the key that applied for the token (FACTS 1); under another it is not the caller's.
            raise Denied(ACCOUNT_INVALID, type_)
        if token.type is not type_:
            raise Denied(TYPE_MISMATCH, type_)
        self._require_valid(token)
        self.tokens[type_] = token

    def require_valid(self) -> None:
        """Raise ``Denied`` unless the group is there and every current token is valid at this moment."""
        super().require_valid()
        for token in self.tokens.values():
            self._require_valid(token)

    def _covers(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> bool:
        fitting = [self.tokens[type_] for type_ in types if type_ in self.tokens]
        if not fitting:
            raise Denied(TYPE_MISMATCH, direction)
        # Nothing under $, where notices and tokens travel, is ever in reach: no resource begins with it (ApplyToken
        # refuses that), and wildcards do not reach it (MQTT 3.1.1 section 4.7.2).
        return any(covers(wide, topic_filter) for token in fitting for wide in token.resources)

    def _require_valid(self, token: Token) -> None:
        standing = self._state.standing(token, self._clock.now_ms())
        if standing is not Standing.VALID:
            raise Denied(_CODES[standing], token.type)


class KeyAccess(Access):
    """The rights of whoever signed in with a key: every topic whose parent is named, and nothing under ``$``."""

    def put(self, type_: TokenType, text: CloudToken) -> None:  # noqa: ARG002 (whichever it is)
        """Raise ``Denied``: whoever signed in without a token has no slot to put one in."""
        raise Denied(TYPE_MISMATCH, type_)

    def _covers(self, _types: tuple[TokenType, ...], _direction: TokenType, topic_filter: str) -> bool:
        return ParentTopics.is_named(topic_filter)


def _permits(check: Callable[[], None]) -> bool:
    try:
        check()
    except Denied:
        return False
    return True


def parse_upload(payload: bytes) -> tuple[TokenType, CloudToken]:
    """Return what ``$SYS/uploadToken`` carries; the English documents spell the key ``Token``. Raises ``Denied``."""
    try:
        body = json.loads(payload)
        type_ = TokenType(body["type"])
        text = body["token"] if "token" in body else body["Token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Denied(FORGED, TokenType.RW) from None
    if not isinstance(text, str):
        raise Denied(FORGED, type_)
    return type_, CloudToken(text)
