"""The queue of revocations to deliver to the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from app.store.connection import Script, Store
from app.store.keys import SHARDS, Handle, Shard
from app.store.sealing import Sealed

_CLAIM: Final = Script("claim", may_oom=True)
_SETTLE: Final = Script("settle", may_oom=True)

CLAIM_MS: Final = 30_000
"""A claim not settled by then falls to the next worker."""

LAPSE_MS: Final = 60_000
"""This long after the cloud's expiry nothing is left to revoke."""

Outcome = Literal["confirmed", "failed", "queued"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One revocation that this worker may deliver now; not every try of ``tries`` counted as one of ``attempts``."""

    handle: Handle
    number: str
    client_id: str
    sealed: Sealed
    expires_at_ms: int
    tries: int
    attempts: int


class Revocations:
    """Claims on due revocations, and how they end."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._store = store

    async def due_shards(self) -> list[Shard]:
        """Return the shards with something due, in one round trip. Raises ``Unavailable``."""
        now_ms = self._store.clock.now_ms()
        shards = [Shard(number) for number in range(SHARDS)]
        first = await self._store.each(
            [("ZRANGE", shard.queue, "-inf", now_ms, "BYSCORE", "LIMIT", 0, 1) for shard in shards]
        )
        return [shard for shard, handles in zip(shards, first, strict=True) if handles]

    async def claim(self, shard: Shard) -> Claim | None:
        """Claim the shard's first due revocation. Raises ``Unavailable``."""
        row = await self._store.run(_CLAIM, [shard.queue], shard.token(""), CLAIM_MS, LAPSE_MS)
        if not row:
            return None
        handle, number, client_id, sealed, expires_at_ms, tries, attempts = row
        return Claim(
            handle=Handle(handle),
            number=str(number),
            client_id=client_id,
            sealed=Sealed(sealed),
            expires_at_ms=int(expires_at_ms),
            tries=int(tries),
            attempts=int(attempts),
        )

    async def settle(self, claim: Claim, outcome: Outcome, *, again_in_ms: int = 0, counts: bool = True) -> bool:
        """Record what came of a claim; False if it had fallen to another. Raises ``Unavailable``."""
        shard = Shard.of(claim.client_id)
        keys = [shard.queue, shard.token(claim.handle)]
        arguments = (claim.handle, claim.number, outcome, again_in_ms, int(counts))
        return bool(await self._store.run(_SETTLE, keys, *arguments))
