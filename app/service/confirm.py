"""Asking the cloud whether a token is still good (QueryToken, guide chapter 10.2), as seldom as that can be."""

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
"""How long the cloud's word is taken for what it would say now."""

MOST_KEPT: Final = 10_000
ANSWER_WITHIN_S: Final = 3.0

LEAVE_ALONE_S: Final = 1.0
"""A cloud that did not answer one caller is not waited for again by all the others."""


class Confirmer:
    """Keeps the cloud's word about tokens for a few seconds, and asks once for all who ask about one token."""

    def __init__(self, tokens: Tokens, cloud: CloudClient) -> None:
        """Open cloud tokens with ``tokens``, ask ``cloud``."""
        self._tokens = tokens
        self._cloud = cloud
        self._said: OrderedDict[Handle, tuple[bool, float]] = OrderedDict()
        self._asking: WeakValueDictionary[Handle, asyncio.Lock] = WeakValueDictionary()
        self._left_alone_until = 0.0

    def known(self, handle: Handle) -> bool | None:
        """Return what the cloud said in the last few seconds, or None."""
        said, until = self._said.get(handle, (None, 0.0))
        return said if asyncio.get_running_loop().time() < until else None

    async def ask(self, record: TokenRecord, deadline: float) -> bool | None:
        """Return whether the cloud takes the token for good, or None if it cannot be asked now.

        ``deadline`` is loop time in seconds.
        """
        lock = self._asking.setdefault(record.handle, asyncio.Lock())
        async with lock:
            # While this one waited for the lock, another may have asked.
            said = self.known(record.handle)
            if said is not None or self._now() < self._left_alone_until:
                return said
            try:
                said = await self._query(record, min(deadline, self._now() + ANSWER_WITHIN_S))
            except CannotOpen as error:
                log.warning("introspection_without_cloud", handle=record.handle, cause=str(error))
                return None
            except CloudError as error:
                if error.kind in RETRIED:
                    self._left_alone_until = self._now() + LEAVE_ALONE_S
                log.warning("introspection_without_cloud", handle=record.handle, cause=str(error))
                return None
            self._keep(record.handle, good=said)
            return said

    async def _query(self, record: TokenRecord, deadline: float) -> bool:
        if record.sealed is None:
            raise CannotOpen("there is nothing to open")
        cloud_tokens = self._tokens.open(record.sealed, record.client_id, record.handle)
        return all(await all_of(self._cloud.query_token(each.token, deadline=deadline) for each in cloud_tokens))

    def _keep(self, handle: Handle, *, good: bool) -> None:
        self._said[handle] = (good, self._now() + GOOD_FOR_S)
        self._said.move_to_end(handle)
        if len(self._said) > MOST_KEPT:
            self._said.popitem(last=False)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
