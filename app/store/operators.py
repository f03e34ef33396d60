"""Operators in Redis: sealed records by name, each under an epoch that only rises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from app.model.operators import Operator, OperatorRole
from app.model.secrets import PasswordHash, Secret
from app.store.attempts import Attempts
from app.store.audit import Event
from app.store.redis_keys import OPERATOR_EPOCH, OPERATORS
from app.store.script import Script
from app.store.sealing import CannotOpen, SealingKeys
from app.store.store import Store

# Operators are removed, their sessions ended, and signed in also when Redis is full.
_WRITE: Final = Script("write_operator", may_oom=True)
_REHASH: Final = Script("rehash_operator", may_oom=True)
_REDIS_KEYS: Final = {"operators": OPERATORS, "last_epoch": OPERATOR_EPOCH}

MAX_OPERATORS: Final = 1000


@dataclass(frozen=True, slots=True)
class StoredOperator:
    """An operator as stored. ``epoch`` rises whenever role, password or sessions change."""

    operator: Operator
    hash: PasswordHash
    epoch: int
    text: str
    """The record itself, so that a script can check that it is still current."""


@dataclass(frozen=True, slots=True)
class OperatorsSnapshot:
    """All operators at one moment, by name: None for a record that cannot be opened. ``epoch`` is the last given."""

    accounts: Mapping[str, StoredOperator | None]
    epoch: int


class _OperatorRecord(msgspec.Struct, frozen=True):
    """The sealed part of a record: an attacker who writes to Redis cannot make an operator an admin."""

    role: OperatorRole
    hash: str
    created_at_ms: int


class Operators:
    """The operators of the console."""

    def __init__(self, store: Store, sealing_keys: SealingKeys) -> None:
        """Read and write through ``store``, seal with ``sealing_keys``."""
        self._redis = store.requests
        self._clock = store.clock
        self._sealing_keys = sealing_keys
        self.attempts = Attempts(store)
        """Attempts to prove their passwords."""

    def now_ms(self) -> int:
        """Return Redis's time, Unix ms."""
        return self._clock.now_ms()

    async def find_operator(self, name: str) -> StoredOperator | None:
        """Return an operator, or None. Raises ``Unavailable``, and ``CannotOpen``."""
        text = await self._redis.command("HGET", OPERATORS, name)
        return self.open_record(name, text) if text else None

    def open_record(self, name: str, text: str) -> StoredOperator:
        """Open a record as stored. Raises ``CannotOpen``."""
        epoch, _, sealed = text.partition(" ")
        # Sealed with the epoch: an attacker who writes to Redis cannot turn it back to one whose sessions were ended.
        record = msgspec.json.decode(
            self._sealing_keys.open(sealed, "operator", name, epoch).reveal(), type=_OperatorRecord
        )
        return StoredOperator(
            Operator(name, record.role, record.created_at_ms), PasswordHash(record.hash), int(epoch), text
        )

    async def has_operators(self) -> bool:
        """Return whether there is an operator. Raises ``Unavailable``."""
        return bool(await self._redis.command("HLEN", OPERATORS))

    async def read_operators(self) -> OperatorsSnapshot:
        """Return all operators. Raises ``Unavailable``."""
        # The epoch first: ``write_operator`` then detects what changes in between.
        epoch, words = await self._redis.pipeline([("GET", OPERATOR_EPOCH), ("HGETALL", OPERATORS)])
        names, texts = words[::2], words[1::2]
        accounts = {name: self._open_or_none(name, text) for name, text in zip(names, texts, strict=True)}
        return OperatorsSnapshot(accounts, int(epoch or 0))

    async def write_operator(
        self, read: OperatorsSnapshot, operator: Operator, password: PasswordHash | None, *, event: Event
    ) -> bool:
        """Write an operator's record under a new epoch, which ends their sessions; without ``password``, remove it.

        False if any operator was changed since ``read``: then nothing is written, for what was decided by it may no
        longer hold. Not to be sent again blindly. Raises ``Unavailable``.
        """
        # Higher than the last that was given: a clock that is set back between a removal and adding the same name again
        # cannot bring an old epoch back. And not before now: nor can a Redis that lost its last seconds.
        epoch = max(self._clock.now_ms() * 1000, read.epoch + 1)
        text = self._text(operator, password, epoch) if password else ""
        written = await self._redis.run_script(
            _WRITE,
            _REDIS_KEYS,
            read_epoch=read.epoch or "",
            epoch=epoch,
            name=operator.name,
            record=text,
            actor=event.actor.name,
            request_id=event.actor.request_id,
            event=event.kind,
            detail=event.detail,
        )
        return bool(written)

    async def rehash_operator(self, account: StoredOperator, password: PasswordHash) -> None:
        """Store another hash of the same password, if the record is still current; no session ends.

        May be sent again. Raises ``Unavailable``.
        """
        text = self._text(account.operator, password, account.epoch)
        await self._redis.run_script(
            _REHASH, {"operators": OPERATORS}, name=account.operator.name, read_record=account.text, record=text
        )

    def _text(self, operator: Operator, password: PasswordHash, epoch: int) -> str:
        record = _OperatorRecord(operator.role, password.reveal(), operator.created_at_ms)
        sealed = self._sealing_keys.seal(
            Secret(msgspec.json.encode(record).decode()), "operator", operator.name, str(epoch)
        )
        return f"{epoch} {sealed}"

    def _open_or_none(self, name: str, text: str) -> StoredOperator | None:
        try:
            return self.open_record(name, text)
        except CannotOpen:
            return None
