"""Failed authentications of devices and services: counted by client ID and by address, over all instances."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from app.store.redis_keys import failures_by_address_key, failures_by_client_key
from app.store.script import Script
from app.store.store import Store

# A full Redis must not turn a 401 into a 503. A flood adds little: keys are digests, and live for a minute.
_COUNT: Final = Script("count_failure", may_oom=True)

MAX_BY_CLIENT: Final = 10
MAX_BY_ADDRESS: Final = 100
"""Failures in any minute, of a client ID and of an address."""


class FailureCounter(NamedTuple):
    """What failures are counted by: a client ID that is claimed, or an address (``network_of``)."""

    by: Literal["client ID", "address"]
    name: str

    @property
    def limit(self) -> int:
        """How many failures it holds in a minute."""
        return MAX_BY_CLIENT if self.by == "client ID" else MAX_BY_ADDRESS

    @property
    def key(self) -> str:
        """Its key in Redis: of a digest, for a claimed client ID is of any length."""
        digest = hashlib.sha256(self.name.encode(errors="surrogatepass")).hexdigest()[:32]
        return failures_by_client_key(digest) if self.by == "client ID" else failures_by_address_key(digest)


class FailureCounts:
    """Counts of failed authentications."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.requests

    async def count_failures(self, failures: Sequence[Sequence[FailureCounter]]) -> list[list[int]]:
        """Count failures in one round trip, each by all of its counters, or by none if one of them is full.

        Returns for each failure and each of its counters 0, or for how many ms the counter is full. Not to be sent
        again. Raises ``Unavailable``.
        """
        return await self._redis.pipeline(
            [
                self._redis.script_command(
                    _COUNT, {"counters": [each.key for each in counters]}, limits=[each.limit for each in counters]
                )
                for counters in failures
            ]
        )
