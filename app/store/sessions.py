"""Sessions of operators in Redis: by the hash of their ID, each good for one epoch of its operator."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

import structlog

from app.model.actors import Actor
from app.model.secrets import Secret, SessionId
from app.store.audit import Event, EventKind
from app.store.constants import SESSION_LONGEST_MS
from app.store.operators import Operators, StoredOperator
from app.store.redis_keys import OPERATORS, session_key
from app.store.script import Script
from app.store.sealing import CannotOpen, KeyRing
from app.store.store import Store

log = structlog.get_logger(__name__)

# Who has to revoke something is at the console when Redis is full too.
_BEGIN: Final = Script("begin_session", may_oom=True)
_FIND: Final = Script("find_session", may_oom=True)
_END: Final = Script("end_session", may_oom=True)

_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class Sessions:
    """Who is signed in."""

    def __init__(self, store: Store, keys: KeyRing, operators: Operators) -> None:
        """Read and write through ``store``, seal with ``keys``; ``operators`` know whose a session is."""
        self._redis = store.requests
        self._clock = store.clock
        self._keys = keys
        self._operators = operators

    async def begin(
        self, account: StoredOperator, detail: str, *, request_id: str = ""
    ) -> tuple[SessionId, int] | None:
        """Begin a session of 256 random bits, and return it and when it ends at last (Unix ms).

        ``detail`` and ``request_id`` are for the audit. None if the operator was changed or removed since ``account``
        was read. Raises ``Unavailable``.
        """
        session = SessionId(secrets.token_urlsafe(32))
        name, created_at_ms = account.operator.name, self._clock.now_ms()
        # The script reads the fields themselves; this seal is empty and proves them. Whoever writes to Redis could else
        # sign himself in as anybody.
        seal = self._keys.seal(Secret(""), "session", _digest(session), _terms(name, account.epoch, created_at_ms))
        begun = await self._redis.run_script(
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
        return (session, created_at_ms + SESSION_LONGEST_MS) if begun else None

    async def find(self, session: SessionId, *, touch: bool) -> StoredOperator | None:
        """Return whose session it is, in one round trip; ``touch`` prolongs it. None: ended, or never begun.

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
            self._keys.open(seal, "session", _digest(session), _terms(name, epoch, created_at_ms))
        except CannotOpen as error:
            # Forged, or begun under a sealing key that is no longer there: sign in again.
            log.warning("session_not_ours", cause=str(error))
            return None
        return self._operators.opened(name, text)

    async def end(self, session: SessionId, *, request_id: str = "") -> Event | None:
        """End a session; None if there was none. May be sent again. Raises ``Unavailable``."""
        if not _ID.fullmatch(session.reveal()):
            return None
        who = await self._redis.run_script(_END, {"session": session_key(_digest(session))}, request_id=request_id)
        return Event(Actor(who, request_id), EventKind.SIGNED_OUT) if who else None


def _digest(session: SessionId) -> str:
    """All that Redis gets of it: whoever reads there can sign in as nobody."""
    return hashlib.sha256(session.reveal().encode()).hexdigest()


def _terms(name: str, epoch: int | str, created_at_ms: int | str) -> str:
    return f"{name} {epoch} {created_at_ms}"
