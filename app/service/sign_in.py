"""Signing in to the console, and the sessions that follow."""

from __future__ import annotations

from dataclasses import dataclass

from app.model.operators import Operator
from app.model.secrets import Password, SessionId
from app.store.operators import Operators
from app.store.sessions import Sessions


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session; ``ends_at_ms`` (Unix ms) is when it ends however much it is used."""

    session: SessionId
    operator: Operator
    ends_at_ms: int


class SignIn:
    """Who is at the console."""

    def __init__(self, operators: Operators, sessions: Sessions) -> None:
        self._operators = operators
        self._sessions = sessions

    async def sign_in(self, name: str, password: Password, address: str) -> SignedIn:
        """Begin a session. Raises ``SignInFailed``, ``TooManyRequests`` and ``Unavailable``."""
        raise NotImplementedError

    async def find(self, session: SessionId, *, touch: bool = True) -> Operator | None:
        """Return whose session it is, or None if it has ended or never was. Raises ``Unavailable``."""
        raise NotImplementedError

    async def sign_out(self, session: SessionId) -> None:
        """End a session. Raises ``Unavailable``."""
        raise NotImplementedError

    async def nobody_yet(self) -> bool:
        """Tell whether there is no operator at all. Raises ``Unavailable``."""
        raise NotImplementedError
