"""Asking the cloud whether a token is still valid (QueryToken, guide chapter 10.2), as rarely as possible."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import structlog

from app.cloud.client import CloudClient
from app.cloud.errors import RETRIED, CloudError
from app.store.records import TokenRecord
from app.store.redis_keys import Handle
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens
from app.tasks import all_of

log = structlog.get_logger(__name__)

GOOD_FOR_S: Final = 5.0
"""How long an answer of the cloud is used again."""

MAX_ANSWERS: Final = 10_000
ANSWER_WITHIN_S: Final = 3.0

LEAVE_ALONE_S: Final = 1.0
"""When the cloud did not answer one caller, the others do not wait for it during this time."""


class Confirmer:
    """Keeps the cloud's answers about tokens for a few seconds; callers that ask about one token share one call."""

    def __init__(self, tokens: Tokens, cloud: CloudClient) -> None:
        """Open cloud tokens with ``tokens``, ask ``cloud``."""
        self._tokens = tokens
        self._cloud = cloud
        self._answers: OrderedDict[Handle, tuple[bool, float]] = OrderedDict()
        """Whether the token is valid, and until when (loop time, in seconds) that is used."""
        self._locks: WeakValueDictionary[Handle, asyncio.Lock] = WeakValueDictionary()
        self._left_alone_until = 0.0

    def recent_answer(self, handle: Handle) -> bool | None:
        """Return what the cloud answered in the last few seconds, or None."""
        is_valid, until = self._answers.get(handle, (None, 0.0))
        return is_valid if self._now() < until else None

    async def ask(self, record: TokenRecord, deadline: float) -> bool | None:
        """Return whether the token is valid at the cloud, or None if it cannot be asked now.

        ``deadline`` is loop time in seconds.
        """
        lock = self._locks.setdefault(record.handle, asyncio.Lock())
        async with lock:
            # Another caller may have asked while this one waited for the lock.
            is_valid = self.recent_answer(record.handle)
            if is_valid is not None or self._now() < self._left_alone_until:
                return is_valid
            try:
                is_valid = await self._query(record, min(deadline, self._now() + ANSWER_WITHIN_S))
            except (CannotOpen, CloudError) as error:
                if isinstance(error, CloudError) and error.kind in RETRIED:
                    self._left_alone_until = self._now() + LEAVE_ALONE_S
                log.warning("introspection_without_cloud", handle=record.handle, cause=str(error))
                return None
            self._keep(record.handle, is_valid=is_valid)
            return is_valid

    async def _query(self, record: TokenRecord, deadline: float) -> bool:
        if record.sealed is None:
            raise CannotOpen("the record has no cloud token")
        cloud_tokens = self._tokens.open(record.sealed, record.client_id, record.handle)
        return all(await all_of(self._cloud.query_token(each.token, deadline=deadline) for each in cloud_tokens))

    def _keep(self, handle: Handle, *, is_valid: bool) -> None:
        self._answers[handle] = (is_valid, self._now() + GOOD_FOR_S)
        self._answers.move_to_end(handle)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
