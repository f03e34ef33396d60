"""Bulk revocations as jobs: any instance continues them, so none is lost with an instance."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import structlog

from app.errors import InvalidRequest, NotFound, Unavailable
from app.model.actors import Actor
from app.model.selections import Selection, SelectionKind
from app.model.text import _
from app.store.constants import EVERYTHING, JOB_LEASE_MS, JOB_SHARDS_AT_ONCE
from app.store.index import TokenIndex
from app.store.jobs import Job, JobStore, is_job_id, new_job_id
from app.store.records import Priority
from app.store.redis_keys import Handle, Shard
from app.store.retry import retry_until
from app.store.revocations import RevocationQueue
from app.tasks import end

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often an idle instance looks for a job that another started, or left."""

START_WITHIN_S: Final = 5.0

STEP_TOKENS: Final = 50
"""Tokens that one script revokes. That takes 2 ms of Redis, which other requests hardly notice."""

TOKENS_PER_S: Final = 2_000.0
"""The most that a worker revokes, so that a bulk revocation does not slow token requests down."""

MIN_PAUSE_S: Final = 0.005
"""The least pause between two scripts, however far a worker is behind its pace."""


@dataclass(frozen=True, slots=True)
class JobsPage:
    """Some jobs, the newest first, and the cursor of the next page; empty at the end."""

    jobs: tuple[Job, ...]
    next_cursor: str


class Jobs:
    """Starts jobs, reports their progress, and works on them."""

    def __init__(self, store: JobStore, index: TokenIndex, queue: RevocationQueue) -> None:
        """Keep jobs in ``store``; ``index`` finds the tokens of a selection, and ``queue`` revokes them."""
        self._store = store
        self._index = index
        self._queue = queue
        # An instance alone works on as many shards of a job as all instances may at once.
        self._wake_ups = [asyncio.Event() for _ in range(JOB_SHARDS_AT_ONCE)]

    async def start_job(self, selection: Selection, *, actor: Actor, counted: int, job: str = "") -> Job:
        """Start to revoke a role, a topic or everything; ``counted`` is the number that the actor was shown.

        ``job`` is an ID that was generated with what was shown: sent twice, it starts one job. On return every instance
        denies a role or everything; a topic follows shard by shard. If this raises, the job may have started all the
        same; then it is finished. Raises ``InvalidRequest`` for an ID that is not valid or is another selection's job,
        and ``Unavailable``.
        """
        if job and not is_job_id(job):
            raise InvalidRequest(_("not a valid job ID: expected 16 digits and letters a to f"))
        job = job or new_job_id()
        start = partial(self._store.start_job, job, selection, actor=actor, counted=counted)
        if not await retry_until(start, within_s=START_WITHIN_S):
            # An operator confirms one selection: never start another one in its place.
            raise InvalidRequest(_("job %(job)s revokes another selection: start again without the job's ID", job=job))
        if selection.kind is not SelectionKind.TOPIC:
            raise_watermark = partial(self._queue.raise_watermark, _watermark_of(selection), job)
            await retry_until(raise_watermark, within_s=START_WITHIN_S)
        for wake_up in self._wake_ups:
            wake_up.set()
        return await self.get_job(job)

    async def get_job(self, job: str) -> Job:
        """Return a job and its progress. Raises ``NotFound`` and ``Unavailable``."""
        found = await self._store.read_job(job)
        if found is None:
            raise NotFound(_("there is no such job: jobs are kept for 31 days"))
        return found

    async def list_jobs(self, cursor: str = "", limit: int = 50) -> JobsPage:
        """List jobs. Raises ``InvalidCursor`` and ``Unavailable``."""
        jobs, next_cursor = await self._store.list_jobs(cursor, limit)
        return JobsPage(tuple(jobs), next_cursor)

    async def work_on_jobs(self) -> None:
        """Work on the open jobs of all instances until cancelled. Each worker takes one shard at a time."""
        workers = [asyncio.create_task(self._work(wake_up), name="jobs") for wake_up in self._wake_ups]
        try:
            await asyncio.gather(*workers)
        finally:
            await end(workers)

    async def _work(self, wake_up: asyncio.Event) -> NoReturn:
        while True:
            wake_up.clear()
            try:
                while await self._work_on_each_job():
                    pass
            except Unavailable as error:  # the store logs, once, that Redis is away
                log.debug("jobs_unreachable", cause=error.cause)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.8, 1.2)):  # noqa: S311 (only spread)
                    await wake_up.wait()

    async def _work_on_each_job(self) -> bool:
        """Revoke one shard of each open job, so that a large job does not hold up the others; False: nothing to do."""
        worked = False
        for job, selection in await self._store.open_jobs():
            if shard := await self._store.claim_shard(job):
                try:
                    await self._revoke_shard(job, selection, shard)
                    worked = True
                except Unavailable:
                    raise
                except Exception:  # the claim lapses and another worker takes the shard; other jobs go on
                    log.exception("job_broken", job=job)
        return worked

    async def _revoke_shard(self, job: str, selection: Selection, shard: Shard) -> None:
        """Revoke the selection in one shard. If this worker dies, its claim lapses and another repeats the shard.

        Repeating does no harm: a watermark is raised once for each job, and a token is revoked once.
        """
        pace, claim = _Pace(), _Claim(self._store, job, shard)
        has_watermark = selection.kind is not SelectionKind.TOPIC
        if has_watermark:
            await self._queue.raise_watermark(_watermark_of(selection), job, [shard])
        async for handles in self._index.search_shard(selection, shard):
            for step in _steps(handles):
                await self._queue.revoke_tokens(
                    shard, step, Priority.BULK, actor=Actor(f"job:{job}"), job=job, below_watermark=has_watermark
                )
                await pace.pause(len(step))
            if not handles:  # the search used Redis too
                await pace.pause(0)
            await claim.extend_if_due()
        await self._store.finish_shard(job, shard)


class _Pace:
    """Keeps a worker to ``TOKENS_PER_S``, and lets others use Redis between two scripts."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock()

    async def pause(self, tokens: int) -> None:
        """Wait until that many more tokens are due."""
        self._due += tokens / TOKENS_PER_S
        await asyncio.sleep(max(MIN_PAUSE_S, self._due - self._clock()))


class _Claim:
    """A worker's claim on a shard, extended after a third of its lease."""

    def __init__(self, store: JobStore, job: str, shard: Shard) -> None:
        self._store = store
        self._job = job
        self._shard = shard
        self._clock = asyncio.get_running_loop().time
        self._extended_at = self._clock()

    async def extend_if_due(self) -> None:
        """Extend the claim if a third of the lease is over. Raises ``Unavailable``."""
        if self._clock() - self._extended_at > JOB_LEASE_MS / 1000 / 3:
            await self._store.extend_claim(self._job, self._shard)
            self._extended_at = self._clock()


def _steps(handles: Sequence[Handle]) -> list[Sequence[Handle]]:
    return [handles[first : first + STEP_TOKENS] for first in range(0, len(handles), STEP_TOKENS)]


def _watermark_of(selection: Selection) -> str:
    return EVERYTHING if selection.kind is SelectionKind.EVERYTHING else selection.value
