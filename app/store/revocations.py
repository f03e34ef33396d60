"""Revoking in bulk, and the queue of revocations to deliver to the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from app.model.actors import Actor
from app.store.constants import PRIORITY_SPAN, QUEUE_HEAD_LENGTH
from app.store.records import Priority
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.script import Script
from app.store.sealing import Sealed
from app.store.store import Store
from app.store.tokens import REVOKE

_RAISE: Final = Script("raise_watermark", may_oom=True)
_READ_HEAD: Final = Script("read_queue_head", may_oom=True)
_CLAIM: Final = Script("claim_revocation", may_oom=True)
_SETTLE: Final = Script("record_delivery", may_oom=True)
_RESOLVE: Final = Script("resolve_revocation", may_oom=True)

Queue = Literal["queued", "delayed", "failed"]
"""What waits for its turn; what is claimed or put off; what nobody tries any more."""

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


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many revocations wait or are under way, how many failed, and the scopes of some that wait."""

    queued: int
    failed: int
    scopes: tuple[str, ...]


class RevocationQueue:
    """Everything that is revoked here and not yet at the cloud."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def raise_watermark(self, role: str, job: str, shards: Sequence[Shard] = ALL_SHARDS) -> None:
        """Revoke all that was begun under a role until now, or ``EVERYTHING``. Raises ``Unavailable``.

        Once for each job and shard: may be sent again. Nothing is queued by this.
        """
        await self._redis.pipeline(
            [
                self._redis.script_command(
                    _RAISE, {"watermarks": shard.watermarks, "job_counts": shard.job_counts(job)}, role=role
                )
                for shard in shards
            ]
        )

    async def revoke(
        self,
        shard: Shard,
        handles: Sequence[Handle],
        priority: Priority,
        *,
        actor: Actor,
        job: str = "",
        below_watermark: bool = False,
    ) -> int:
        """Revoke and queue tokens of one shard; ``swept``: only those that a floor took. Returns how many it was.

        ``actor`` is who revokes, as the audit trail names them. May be sent again. Raises ``Unavailable``.
        """
        revoked: int = await self._redis.run_script(
            REVOKE,
            {"queue": shard.queue},
            priority=priority.value,
            job=job,
            only_below_watermark=int(below_watermark),
            actor=actor.name,
            request_id=actor.request_id,
            handles=handles,
        )
        return revoked

    async def turns(self) -> list[Shard]:
        """Return the shards of the first revocations over all shards, in the order of their turns.

        What is due again is put back, and what outlived itself lapses. Raises ``Unavailable``.
        """
        rows = await self._redis.pipeline(
            [
                self._redis.script_command(
                    _READ_HEAD,
                    {"queue": shard.queue, "delayed": shard.delayed, "failed": shard.failed},
                )
                for shard in ALL_SHARDS
            ]
        )
        turns = [
            (float(score), shard.number) for shard, row in zip(ALL_SHARDS, rows, strict=True) for score in row[1::2]
        ]
        # Further down a shard's queue than was looked there may be better ones than the last of another's.
        deepest = min((float(row[-1]) for row in rows if len(row) == 2 * QUEUE_HEAD_LENGTH), default=float("inf"))
        return [Shard(number) for score, number in sorted(turns) if score <= deepest]

    async def claim(self, shard: Shard) -> Claim | None:
        """Claim the shard's first revocation. Raises ``Unavailable``."""
        row = await self._redis.run_script(_CLAIM, {"queue": shard.queue, "delayed": shard.delayed})
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
        """Record what came of a claim; False if it had fallen to another. May be sent again. Raises ``Unavailable``."""
        shard = Shard.of(claim.client_id)
        settled = await self._redis.run_script(
            _SETTLE,
            {"token": shard.token(claim.handle), "delayed": shard.delayed, "failed": shard.failed},
            handle=claim.handle,
            claim=claim.number,
            outcome=outcome,
            again_in_ms=again_in_ms,
            attempts=int(counts),
        )
        return bool(settled)

    async def resolve(self, handle: str, verb: Literal["retry", "drop"], *, actor: Actor) -> bool:
        """Queue a failed revocation again, or drop it; False if it is not failed. Raises ``Unavailable``."""
        shard = Shard.of_handle(handle)
        if shard is None:
            return False
        resolved = await self._redis.run_script(
            _RESOLVE,
            {"token": shard.token(handle), "failed": shard.failed},
            handle=handle,
            verb=verb,
            actor=actor.name,
            request_id=actor.request_id,
        )
        return bool(resolved)

    @staticmethod
    def keys(queue: Queue) -> list[str]:
        """Return the keys of one queue in all shards, for ``Index.after``: by turn, by due time, or by expiry."""
        names = {"queued": Shard.queue, "delayed": Shard.delayed, "failed": Shard.failed}
        return [names[queue].__get__(shard) for shard in ALL_SHARDS]

    async def ahead(self, priority: Priority) -> int:
        """Count the revocations that go before, or among, those of this priority. Raises ``Unavailable``."""
        until = (priority + 1) * PRIORITY_SPAN
        return sum(await self._redis.pipeline([("ZCOUNT", shard.queue, "-inf", f"({until}") for shard in ALL_SHARDS]))

    async def backlog(self) -> Backlog:
        """Count what is queued and what failed. Raises ``Unavailable``."""
        rows = await self._redis.pipeline(
            [("ZCARD", key) for shard in ALL_SHARDS for key in (shard.queue, shard.delayed, shard.failed)]
            + [("ZRANGE", shard.queue, 0, 1) for shard in ALL_SHARDS]
        )
        counts, heads = rows[: 3 * len(ALL_SHARDS)], rows[3 * len(ALL_SHARDS) :]
        sample = [
            ("HGET", shard.token(handle), "scope")
            for shard, handles in zip(ALL_SHARDS, heads, strict=True)
            for handle in handles
        ]
        scopes = await self._redis.pipeline(sample) if sample else []
        return Backlog(
            queued=sum(counts[0::3]) + sum(counts[1::3]),
            failed=sum(counts[2::3]),
            scopes=tuple(scope for scope in scopes if scope),
        )
