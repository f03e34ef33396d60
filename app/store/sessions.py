"""Sessions of operators in Redis, by the hash of their ID. Each is valid for one epoch of its operator."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

import structlog

from app.model.secrets import Secret, SessionId
from app.store.operators import Operators, StoredOperator
from app.store.redis_keys import OPERATORS, session_key
from app.store.script import Script
from app.store.sealing import CannotOpen, SealingKeys
from app.store.store import Store

log = structlog.get_logger(__name__)

# An operator who has to revoke something signs in also when Redis is full.
_BEGIN: Final = Script("begin_session", may_oom=True)
_FIND: Final = Script("find_session", may_oom=True)
_END: Final = Script("end_session", may_oom=True)

_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class Sessions:
    """The sessions of signed-in operators."""

    def __init__(self, store: Store, sealing_keys: SealingKeys, operators: Operators) -> None:
        """Read and write through ``store``, seal with ``sealing_keys``; ``operators`` opens their records."""
        self._redis = store.requests
        self._clock = store.clock
        self._sealing_keys = sealing_keys
        self._operators = operators

    async def begin_session(self, account: StoredOperator, detail: str, *, request_id: str = "") -> SessionId | None:
        """Begin a session and return its ID, of 256 random bits.

        ``detail`` and ``request_id`` are for the audit. None if the operator was changed or removed since ``account``
        was read. Raises ``Unavailable``.
        """
        session = SessionId(secrets.token_urlsafe(32))
        name, created_at_ms = account.operator.name, self._clock.now_ms()
        # The script reads the fields themselves; this empty seal proves them. Without it an attacker who writes to
        # Redis could sign in as any operator.
        seal = self._sealing_keys.seal(
            Secret(""), "session", _digest(session), _terms(name, account.epoch, created_at_ms)
        )
        has_begun = await self._redis.run_script(
            _BEGIN,
            {"session": session_key(_digest(session)), "operators": OPERATORS},
            name=name,
            epoch=account.epoch,
            created_at_ms=created_at_ms,
            seal=seal,
            actor=account.operator.actor_name,
            request_id=request_id,
            detail=detail,
        )
        return session if has_begun else None

    async def find_session(self, session: SessionId, *, touch: bool) -> StoredOperator | None:
        """Return the operator of a session, in one round trip; ``touch`` prolongs it. None: it ended, or is unknown.

        Raises ``Unavailable``, and ``CannotOpen`` if the operator's record cannot be unsealed.
        """
        if not _ID.fullmatch(session.reveal()):
            return None
        answer = await self._redis.run_script(
            _FIND,
            {"session": session_key(_digest(session)), "operators": OPERATORS},
            prolongs=int(touch),
        )
        if not answer:
            return None
        name, epoch, created_at_ms, seal, text = answer
        try:
            self._sealing_keys.open(seal, "session", _digest(session), _terms(name, epoch, created_at_ms))
        except CannotOpen as error:
            # Forged, or sealed with a key that is no longer in SEALING_KEYS: the operator signs in again.
            log.warning("session_refused", cause=str(error))
            return None
        return self._operators.open_record(name, text)

    async def end_session(self, session: SessionId, *, request_id: str = "") -> None:
        """End a session, if it has not ended already. May be sent again. Raises ``Unavailable``."""
        if _ID.fullmatch(session.reveal()):
            await self._redis.run_script(_END, {"session": session_key(_digest(session))}, request_id=request_id)


def _digest(session: SessionId) -> str:
    """Return what Redis gets of the ID: an attacker who reads there cannot sign in."""
    return hashlib.sha256(session.reveal().encode()).hexdigest()


def _terms(name: str, epoch: int | str, created_at_ms: int | str) -> str:
    return f"{name} {epoch} {created_at_ms}"
