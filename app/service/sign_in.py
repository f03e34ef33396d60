"""Signing in to the console, and the operators' sessions."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import Final

from app.errors import SignInFailed, TooManyRequests
from app.model.actors import STRANGER, Actor
from app.model.operators import Operator, is_operator_name
from app.model.secrets import Password, SessionId
from app.model.text import _
from app.service.audit import EventRecorder
from app.service.passwords import PASSWORDS
from app.service.refusal_texts import cannot_decrypt
from app.store.attempts import Attempts
from app.store.audit import Event, EventKind, NewEntry
from app.store.operators import Operators, StoredOperator
from app.store.redis_keys import STRANGERS_AUDIT
from app.store.sealing import CannotOpen
from app.store.sessions import Sessions

NO_OPERATOR: Final = "unknown name"
"""The audit has this in place of a typed name that no operator has: it may be a password."""

_INVALID_NAME: Final = ""
"""Looked up in place of an invalid name; no operator can have it."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session."""

    session: SessionId
    operator: Operator


class SignIn:
    """Signs operators in and out, and finds their sessions."""

    def __init__(self, operators: Operators, sessions: Sessions) -> None:
        """Look names up in ``operators``, and keep sessions in ``sessions``."""
        self._operators = operators
        self._sessions = sessions

    async def sign_in(self, name: str, password: Password, address: str, *, request_id: str = "") -> SignedIn:
        """Start a session if the password is right; ``address`` is the client's IP address.

        Raises ``SignInFailed``, in the same words and after the same work whether the name or the password is wrong;
        ``TooManyRequests`` before any work, and ``Unavailable``.
        """
        with PASSWORDS.place():
            # Before the password is checked, so that guesses sent all at once count too.
            await count_attempt(self._operators.attempts, name, address)
            account = await self._find(name)
            verdict = await PASSWORDS.check(account.hash if account else None, password)
        if account is None or not verdict.right:
            detail = f"{name if account else NO_OPERATOR} {_from(address)}".rstrip()
            await report_refused(self._operators.attempts, detail, request_id=request_id)
            raise _failed()
        await self._operators.attempts.forgive_attempts(name, address)
        if verdict.rehashed:
            await self._operators.rehash_operator(account, verdict.rehashed)
        session = await self._sessions.begin_session(account, _from(address), request_id=request_id)
        if session is None:
            # The operator was changed while the password was checked: it may be another password now.
            raise _failed()
        return SignedIn(session, account.operator)

    async def find_session(self, session: SessionId, *, touch: bool = True) -> Operator | None:
        """Return the operator of a session, with their current role; ``touch`` prolongs it.

        None: it is unknown, was idle for too long, is past its end, or was ended. Raises ``Unavailable``.
        """
        try:
            account = await self._sessions.find_session(session, touch=touch)
        except CannotOpen as error:
            raise cannot_decrypt(str(error)) from error
        return account.operator if account else None

    async def sign_out(self, session: SessionId, *, request_id: str = "") -> None:
        """End a session, if it has not ended already. Raises ``Unavailable``."""
        await self._sessions.end_session(session, request_id=request_id)

    async def has_no_operators(self) -> bool:
        """Return whether there is no operator yet; the command line adds the first one. Raises ``Unavailable``."""
        return not await self._operators.has_operators()

    async def _find(self, name: str) -> StoredOperator | None:
        try:
            return await self._operators.find_operator(name if is_operator_name(name) else _INVALID_NAME)
        except CannotOpen as error:
            raise cannot_decrypt(str(error)) from error


async def count_attempt(attempts: Attempts, name: str, address: str) -> None:
    """Count an attempt to prove a password. Raises ``TooManyRequests`` if it comes too early, and ``Unavailable``."""
    if wait_ms := await attempts.count_attempt(name, address):
        wait_s = math.ceil(wait_ms / 1000)
        raise TooManyRequests(
            _("too many attempts: wait %(wait)s s, then try again", wait=wait_s), retry_after_s=wait_s
        )


async def report_refused(attempts: Attempts, detail: str, *, request_id: str) -> None:
    """Record a failed attempt: in the audit, or else in the log.

    ``detail`` names the operator, or is ``NO_OPERATOR``: any other name may be a password typed into the wrong field,
    and everyone who reads the audit would have it.
    """
    event = Event(Actor(STRANGER, request_id), EventKind.SIGN_IN_REFUSED, detail)
    await EventRecorder(attempts.audit).record(NewEntry(STRANGERS_AUDIT, event))


def _from(address: str) -> str:
    try:
        return f"from {ipaddress.ip_address(address)}"
    except ValueError:
        return ""


def _failed() -> SignInFailed:
    return SignInFailed(_("the name or the password is wrong: try again, or ask an admin for a new password"))
