"""Secret values. Their ``repr`` and ``str`` do not contain the value, so neither does a log or a traceback."""

from __future__ import annotations

import hmac
from typing import NoReturn, Self


class Secret:
    """A text that only ``reveal()`` returns, so that every place that shows one can be found by grep."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Keep ``value``."""
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        """Return only the name of the type."""
        return f"{type(self).__name__}()"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        """Compare in constant time: an early exit would show an attacker how many characters were right."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        """Hash like the value, so secrets can be keys of a dict."""
        return hash(self._value)

    def __bool__(self) -> bool:
        """Return whether it is not empty."""
        return bool(self._value)

    def __copy__(self) -> Self:
        """Return itself: secrets are immutable."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a pickle contains the value in the clear."""
        msg = f"{type(self).__name__} cannot be pickled: a pickle is not encrypted"
        raise TypeError(msg)


class ClientSecret(Secret):
    """A device's shared secret, or its private key when it has just been generated."""


class ApiKeyText(Secret):
    """An API key as its holder sends it."""


class CloudToken(Secret):
    """A token as the cloud's ApplyToken returned it (guide chapter 10.1)."""


class AccessKeySecret(Secret):
    """The secret half of a cloud access key."""


class Password(Secret):
    """An operator's password as it was typed or generated."""


class PasswordHash(Secret):
    """What is stored of a password: Argon2id with its parameters and salt (RFC 9106)."""


class SessionId(Secret):
    """The session ID in a browser's cookie."""
