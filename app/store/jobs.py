"""Jobs in Redis: bulk revocations, the shards each has still to go through, and what became of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, get_args

from app.model.actors import Actor
from app.model.selections import Selection
from app.store.cursor import InvalidCursor
from app.store.pipelined_connection import Command
from app.store.records import RevocationState
from app.store.redis_keys import ALL_SHARDS, JOBS, OPEN_JOBS, SHARDS, Shard, job_key, job_work_key
from app.store.script import Script
from app.store.store import Store

_START: Final = Script("start_job", may_oom=True)
_CLAIM: Final = Script("claim_job_shard", may_oom=True)
_EXTEND: Final = Script("extend_job_claim", may_oom=True)

_ID: Final = re.compile(r"[0-9a-f]{16}")
_COUNTS: Final = get_args(RevocationState)


@dataclass(frozen=True, slots=True)
class Job:
    """A bulk revocation. Times are Unix ms; ``done_at_ms`` is 0 while it goes on.

    The tokens of a role, or all, are denied from the first moment; those of a topic filter in ``shards_done`` of
    ``shards``. ``counted`` is how many tokens were counted before. ``queued`` were revoked and queued for the cloud; of
    these some are ``confirmed``, ``failed``, ``lapsed`` or ``dropped``, and the rest wait.
    """

    id: str
    selection: Selection
    by: str
    counted: int
    created_at_ms: int
    done_at_ms: int
    shards_done: int
    queued: int
    confirmed: int
    failed: int
    lapsed: int
    dropped: int
    shards: int = SHARDS

    @property
    def waiting(self) -> int:
        """How many are still to be delivered to the cloud."""
        return self.queued - self.confirmed - self.failed - self.lapsed - self.dropped

    @property
    def settled(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.done_at_ms > 0 and self.waiting <= 0


class JobStore:
    """All jobs, and the work of the open ones."""

    def __init__(self, store: Store) -> None:
        """Read and write through ``store``."""
        self._redis = store.background

    async def start_job(self, job: str, selection: Selection, *, actor: Actor, counted: int) -> bool:
        """Write a job under an ID of ``new_job_id``; False if that is the ID of another selection's job.

        May be sent again: a job that is there stays as it is. Raises ``Unavailable``.
        """
        written = await self._redis.run_script(
            _START,
            {"jobs": JOBS, "open_jobs": OPEN_JOBS, "job": job_key(job), "work": job_work_key(job)},
            job_id=job,
            selection=str(selection),
            counted=counted,
            shards=SHARDS,
            actor=actor.name,
            request_id=actor.request_id,
        )
        return bool(written)

    async def open_jobs(self) -> list[tuple[str, Selection]]:
        """Return the jobs with work left, the oldest first. Raises ``Unavailable``."""
        jobs: list[str] = await self._redis.command("ZRANGE", OPEN_JOBS, 0, -1)
        texts = await self._redis.pipeline([("HGET", job_key(job), "selection") for job in jobs])
        return [(job, Selection.from_text(text)) for job, text in zip(jobs, texts, strict=True) if text]

    async def claim_shard(self, job: str) -> Shard | None:
        """Claim a shard of a job's work; None if there is none to claim now. Raises ``Unavailable``.

        When the last shard is done, this ends the job.
        """
        number: int = await self._redis.run_script(
            _CLAIM,
            {"open_jobs": OPEN_JOBS, "job": job_key(job), "work": job_work_key(job)},
            job_id=job,
        )
        return Shard(number) if number >= 0 else None

    async def extend_claim(self, job: str, shard: Shard) -> None:
        """Extend the claim on a shard by another lease. May be sent again. Raises ``Unavailable``."""
        await self._redis.run_script(_EXTEND, {"work": job_work_key(job)}, shard_number=shard.number)

    async def finish_shard(self, job: str, shard: Shard) -> None:
        """Remove a shard from a job's work. May be sent again. Raises ``Unavailable``."""
        await self._redis.command("ZREM", job_work_key(job), shard.number)

    async def read_job(self, job: str) -> Job | None:
        """Read a job and count what became of it. Raises ``Unavailable``."""
        [found] = await self._read_jobs([job])
        return found

    async def list_jobs(self, cursor: str, limit: int) -> tuple[list[Job], str]:
        """Return jobs, the newest first, and the cursor of the next page; an empty cursor begins, and ends.

        Raises ``InvalidCursor`` and ``Unavailable``.
        """
        after = await self._redis.command("ZREVRANK", JOBS, cursor) if cursor else -1
        if after is None:
            raise InvalidCursor
        # By rank: jobs that began meanwhile come before the cursor's and shift it.
        ids: list[str] = await self._redis.command("ZREVRANGE", JOBS, after + 1, after + 1 + limit)
        jobs = [job for job in await self._read_jobs(ids[:limit]) if job]
        return jobs, ids[limit - 1] if len(ids) > limit else ""

    async def _read_jobs(self, ids: Sequence[str]) -> list[Job | None]:
        commands: list[Command] = []
        for job in ids:
            commands.append(("HMGET", job_key(job), "selection", "by", "counted", "created_at_ms", "done_at_ms"))
            commands.append(("ZCARD", job_work_key(job)))
            commands += [("HMGET", shard.job_counts(job), *_COUNTS) for shard in ALL_SHARDS]
        answers = iter(await self._redis.pipeline(commands))
        return [_job(job, next(answers), next(answers), list(islice(answers, len(ALL_SHARDS)))) for job in ids]


def new_job_id() -> str:
    """Generate a job's ID."""
    return secrets.token_hex(8)


def is_job_id(text: str) -> bool:
    """Return whether ``text`` could be a job's ID."""
    return _ID.fullmatch(text) is not None


def _job(job: str, row: list[str | None], left: int, counts: list[list[str | None]]) -> Job | None:
    selection, by, counted, created_at_ms, done_at_ms = row
    if selection is None:
        return None
    queued, confirmed, failed, lapsed, dropped = (
        sum(int(count or 0) for count in each) for each in zip(*counts, strict=True)
    )
    return Job(
        id=job,
        selection=Selection.from_text(selection),
        by=by or "",
        counted=int(counted or 0),
        created_at_ms=int(created_at_ms or 0),
        done_at_ms=int(done_at_ms or 0),
        shards_done=SHARDS - left,
        queued=queued,
        confirmed=confirmed,
        failed=failed,
        lapsed=lapsed,
        dropped=dropped,
    )
