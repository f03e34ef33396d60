"""Revoking many tokens, and the queue of revocations to deliver to the cloud."""

from __future__ import annotations

import math
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
_RECORD: Final = Script("record_delivery", may_oom=True)
_RESOLVE: Final = Script("resolve_revocation", may_oom=True)

Queue = Literal["queued", "delayed", "failed"]
"""What waits; what is claimed or put off; what is not tried any more."""

Outcome = Literal["confirmed", "failed", "queued"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A revocation that this worker may deliver now.

    ``tries`` were made, of which ``attempts`` count: those made while the cloud is down do not.
    """

    handle: Handle
    number: str
    client_id: str
    priority: Priority
    sealed: Sealed
    expires_at_ms: int
    tries: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many revocations are queued or under way, how many failed, and the scopes of some that are queued."""

    queued: int
    failed: int
    scopes: tuple[str, ...]


class RevocationQueue:
    """What is revoked here and not yet at the cloud."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def raise_watermark(self, role: str, job: str, shards: Sequence[Shard] = ALL_SHARDS) -> None:
        """Revoke all that began under a role until now, or under ``EVERYTHING``. Raises ``Unavailable``.

        Each job does so once in each shard, so it may be sent again. This queues nothing.
        """
        await self._redis.pipeline(
            [
                self._redis.script_command(
                    _RAISE, {"watermarks": shard.watermarks, "job_counts": shard.job_counts(job)}, role=role
                )
                for shard in shards
            ]
        )

    async def revoke_tokens(
        self,
        shard: Shard,
        handles: Sequence[Handle],
        priority: Priority,
        *,
        actor: Actor,
        job: str = "",
        below_watermark: bool = False,
    ) -> int:
        """Revoke and queue tokens of one shard, and return how many.

        ``job`` counts them; with ``below_watermark`` only those below a watermark are revoked. May be sent again.
        Raises ``Unavailable``.
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

    async def next_shards(self) -> list[Shard]:
        """Return the shards of the next revocations over all shards, in the queue's order: a shard for each.

        What is due again goes back into the queue, and what is past its token's life lapses. Raises ``Unavailable``.
        """
        rows = await self._redis.pipeline(
            [
                self._redis.script_command(
                    _READ_HEAD, {"queue": shard.queue, "delayed": shard.delayed, "failed": shard.failed}
                )
                for shard in ALL_SHARDS
            ]
        )
        heads = [[float(score) for score in row[1::2]] for row in rows]
        ordered = sorted((score, shard.number) for shard, head in zip(ALL_SHARDS, heads, strict=True) for score in head)
        # Behind a head that was cut off there may be a revocation that goes before the last ones of other shards.
        known_to = min((head[-1] for head in heads if len(head) == QUEUE_HEAD_LENGTH), default=math.inf)
        return [Shard(number) for score, number in ordered if score <= known_to]

    async def claim_revocation(self, shard: Shard) -> Claim | None:
        """Claim the shard's first revocation. Not to be sent again. Raises ``Unavailable``."""
        row = await self._redis.run_script(_CLAIM, {"queue": shard.queue, "delayed": shard.delayed})
        if not row:
            return None
        handle, number, client_id, priority, sealed, expires_at_ms, tries, attempts = row
        return Claim(
            handle=Handle(handle),
            number=str(number),
            client_id=client_id,
            priority=Priority(int(priority)),
            sealed=Sealed(sealed),
            expires_at_ms=int(expires_at_ms),
            tries=int(tries),
            attempts=int(attempts),
        )

    async def record_delivery(
        self, claim: Claim, outcome: Outcome, *, again_in_ms: int = 0, counts: bool = True, tried: bool = True
    ) -> bool:
        """Record what came of a claim; False if it had gone to another worker. May be sent again.

        ``queued``: deliver it again in ``again_in_ms``. ``counts``: this was an attempt. ``tried`` False: no call was
        made, so it is neither an attempt nor a try. Raises ``Unavailable``.
        """
        shard = Shard.of(claim.client_id)
        recorded = await self._redis.run_script(
            _RECORD,
            {"token": shard.token(claim.handle), "delayed": shard.delayed, "failed": shard.failed},
            handle=claim.handle,
            claim=claim.number,
            outcome=outcome,
            again_in_ms=again_in_ms,
            tries=int(tried),
            attempts=int(tried and counts),
        )
        return bool(recorded)

    async def resolve_revocation(self, handle: str, verb: Literal["retry", "drop"], *, actor: Actor) -> bool:
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
    def queue_keys(queue: Queue) -> list[str]:
        """Return the keys of a queue in all shards, for ``TokenIndex.list_records``."""
        match queue:
            case "queued":
                return [shard.queue for shard in ALL_SHARDS]
            case "delayed":
                return [shard.delayed for shard in ALL_SHARDS]
            case "failed":
                return [shard.failed for shard in ALL_SHARDS]

    async def count_ahead(self, priority: Priority) -> int:
        """Count the revocations of this priority and of those before it. Raises ``Unavailable``."""
        until = (priority + 1) * PRIORITY_SPAN
        return sum(await self._redis.pipeline([("ZCOUNT", shard.queue, "-inf", f"({until}") for shard in ALL_SHARDS]))

    async def read_backlog(self) -> Backlog:
        """Count what is queued or under way and what failed. Raises ``Unavailable``."""
        counts = await self._redis.pipeline(
            [("ZCARD", key) for shard in ALL_SHARDS for key in (shard.queue, shard.delayed, shard.failed)]
        )
        heads = await self._redis.pipeline([("ZRANGE", shard.queue, 0, 1) for shard in ALL_SHARDS])
        handles = [Handle(handle) for head in heads for handle in head]
        keys = [Shard.of_known_handle(handle).token(handle) for handle in handles]
        scopes = await self._redis.pipeline([("HGET", key, "scope") for key in keys])
        return Backlog(
            queued=sum(counts[0::3]) + sum(counts[1::3]),
            failed=sum(counts[2::3]),
            scopes=tuple(scope for scope in scopes if scope),
        )
