"""How far the audit is in the log: a lease for the one instance that ships it, and a position for each stream.

The position is stored beside its stream, in the same slot of a cluster, so that both are lost or set back together. It
is the last shipped entry's ID and how many entries the stream had been given up to that one: from these two the scripts
know what is new, what must not be removed yet, and what was removed before it was shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.loop_share import in_slices
from app.store.audit import STREAMS, AuditEntry, parse_entry
from app.store.redis_keys import AUDIT_SHIPPING_LEASE, shipped_key
from app.store.script import Script
from app.store.store import Store

# The log goes on when Redis is full.
_HOLD_LEASE: Final = Script("hold_shipping_lease", may_oom=True)
_READ: Final = Script("read_unshipped", may_oom=True)
_SAVE: Final = Script("save_shipped", may_oom=True)

LEASE_MS: Final = 3_000
"""How long the lease lasts if its instance does not extend it; then another instance ships."""

BATCH: Final = 50
"""Entries of one stream that are read at a time."""


@dataclass(frozen=True, slots=True)
class UnshippedEntries:
    """The next entries of a stream, and the position before and after them.

    ``lost`` entries were removed between the last shipped one and these.
    """

    stream: int
    previous_id: str
    entries: tuple[AuditEntry, ...]
    last_id: str
    count: int
    lost: int


class AuditShipping:
    """The state of shipping in Redis. Every method raises ``Unavailable``; each may be called again."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def hold_lease(self, instance: str) -> bool:
        """Take or extend the lease; False if another instance holds it."""
        return bool(await self._ask_for_lease(instance, LEASE_MS))

    async def release_lease(self, instance: str) -> None:
        """Give the lease back, so that another instance need not wait for its end."""
        await self._ask_for_lease(instance, 0)

    async def _ask_for_lease(self, instance: str, lease_ms: int) -> int:
        answer: int = await self._redis.run_script(
            _HOLD_LEASE, {"lease": AUDIT_SHIPPING_LEASE}, instance=instance, lease_ms=lease_ms
        )
        return answer

    async def read_unshipped(self) -> list[UnshippedEntries]:
        """Return up to ``BATCH`` new entries of each stream that has any."""
        answers = await self._redis.pipeline(
            [
                self._redis.script_command(_READ, {"stream": stream, "shipped": shipped_key(stream)}, limit=BATCH)
                for stream in STREAMS
            ]
        )
        found = []
        for stream, answer in enumerate(answers):
            if answer:
                previous_id, count, lost, rows = answer
                entries = [entry async for entry in in_slices(parse_entry(stream, *row) for row in rows)]
                last_id = rows[-1][0]
                found.append(UnshippedEntries(stream, previous_id, tuple(entries), last_id, count + len(rows), lost))
        return found

    async def save_shipped(self, shipped: Sequence[UnshippedEntries]) -> None:
        """Move the positions behind these entries, unless another instance has, and remove old entries."""
        await self._redis.pipeline(
            [
                self._redis.script_command(
                    _SAVE,
                    {"stream": STREAMS[each.stream], "shipped": shipped_key(STREAMS[each.stream])},
                    previous_id=each.previous_id,
                    last_id=each.last_id,
                    count=each.count,
                )
                for each in shipped
            ]
        )
