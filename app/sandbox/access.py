"""What a connection may do: its current tokens, and every decision that is taken by them (FACTS 1 and 2).

A connection has three slots, R, W and RW, each for one token at most. **All** tokens in the slots must be valid, or
nothing is allowed. Uploading a token replaces that of its own slot and no other: an RW token does not release R and W,
because nothing documents that it would, and the connection then lives as if it did not.
"""

from __future__ import annotations

import json
from typing import Final

from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.model.topics import MAX_TOPIC_CHARS, covers
from app.sandbox.clock import Clock
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


class Access:
    """The tokens of one connection."""

    def __init__(self, state: State, clock: Clock, access_key_id: str) -> None:
        self.tokens: dict[TokenType, Token] = {}
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
        """Raise ``Denied`` unless every current token is valid at this moment."""
        for token in self.tokens.values():
            self._require_valid(token)

    def require_write(self, topic: str) -> None:
        """Raise ``Denied`` unless a message may be published to ``topic`` at this moment."""
        self._require(_WRITERS, TokenType.W, topic)

    def require_read(self, topic_filter: str) -> None:
        """Raise ``Denied`` unless every topic of ``topic_filter`` may be read at this moment."""
        self._require(_READERS, TokenType.R, topic_filter)

    def may_read(self, topic: str) -> bool:
        """Tell whether a message of ``topic`` may be delivered at this moment."""
        try:
            self.require_read(topic)
        except Denied:
            return False
        return True

    def may_write(self, topic: str) -> bool:
        """Tell whether a message may be published to ``topic`` at this moment."""
        try:
            self.require_write(topic)
        except Denied:
            return False
        return True

    def _require(self, types: tuple[TokenType, ...], direction: TokenType, topic_filter: str) -> None:
        self.require_valid()
        fitting = [self.tokens[type_] for type_ in types if type_ in self.tokens]
        if not fitting:
            raise Denied(TYPE_MISMATCH, direction)
        # Nothing under $, where notices and tokens travel, is ever in reach: no resource begins with it (ApplyToken
        # refuses that), and wildcards do not reach it (MQTT 3.1.1 section 4.7.2).
        too_long = len(topic_filter) > MAX_TOPIC_CHARS
        if too_long or not any(covers(wide, topic_filter) for token in fitting for wide in token.resources):
            raise Denied(RESOURCE_MISMATCH, direction)

    def _require_valid(self, token: Token) -> None:
        standing = self._state.standing(token, self._clock.now_ms())
        if standing is not Standing.VALID:
            raise Denied(_CODES[standing], token.type)


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
