"""Large revocations as jobs: any instance goes on with them, and none is lost with an instance."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import structlog

from app.errors import InvalidRequest, NotFound, Unavailable
from app.model.actors import Actor
from app.model.selections import Selection, SelectionKind
from app.store.constants import EVERYTHING, JOB_LEASE_MS, JOB_SHARDS_AT_ONCE
from app.store.index import TokenIndex
from app.store.jobs import Job, JobStore, is_job_id, new_job_id
from app.store.records import Priority
from app.store.redis_keys import Shard
from app.store.retry import retry_until
from app.store.revocations import RevocationQueue
from app.tasks import end

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often an idle instance looks for a job begun, or left, by another."""

BEGIN_WITHIN_S: Final = 5.0

AT_A_TIME: Final = 50
"""Tokens that one script revokes. Redis is held by it for two milliseconds, which requests under way hardly notice."""

PACE: Final = 2_000.0
"""Tokens a second that a worker takes at most: a large revocation is not to slow requests for tokens down."""

LEAST_BREATH_S: Final = 0.005
"""However far a worker is behind its pace, it lets others to Redis between two scripts."""


@dataclass(frozen=True, slots=True)
class JobsPage:
    """Some jobs, the newest first, and the cursor with which to ask for the next; empty at the end."""

    jobs: tuple[Job, ...]
    next_cursor: str


class Jobs:
    """Begins jobs, tells how far they are, and works on them."""

    def __init__(self, book: JobStore, index: TokenIndex, queue: RevocationQueue) -> None:
        """Jobs are written down in ``book``; ``index`` finds what they take, and ``queue`` takes it."""
        self._book = book
        self._index = index
        self._queue = queue
        # As many as a job has shards at once: an instance alone keeps the pace as well.
        self._woken = [asyncio.Event() for _ in range(JOB_SHARDS_AT_ONCE)]

    async def start_job(self, selection: Selection, *, actor: Actor, counted: int, job: str = "") -> Job:
        """Begin to revoke a role, a topic or everything for ``actor``; ``counted`` is what was shown before.

        ``job`` is an ID that was drawn with what was shown: sent twice, it is begun once. When this returns, a role or
        everything is denied at every instance; a topic will be, shard by shard. If it does not return, the job may have
        begun all the same: then it is finished, never half. Raises ``InvalidRequest`` for the ID of another
        selection's job, or none, and ``Unavailable``.
        """
        if job and not is_job_id(job):
            raise InvalidRequest("this is no job's ID")
        job = job or new_job_id()
        started = await retry_until(
            partial(self._book.start_job, job, selection, actor=actor, counted=counted), within_s=BEGIN_WITHIN_S
        )
        if not started:
            # What was confirmed is never another thing than what is done.
            raise InvalidRequest(f"job {job} revokes another selection: begin this one anew")
        if selection.kind is not SelectionKind.TOPIC:
            await retry_until(
                partial(self._queue.raise_watermark, _watermark_of(selection), job), within_s=BEGIN_WITHIN_S
            )
        for woken in self._woken:
            woken.set()
        return await self.get_job(job)

    async def get_job(self, job: str) -> Job:
        """Tell how far a job is. Raises ``NotFound`` and ``Unavailable``."""
        found = await self._book.read_job(job)
        if found is None:
            raise NotFound("there is no such job")
        return found

    async def list_jobs(self, cursor: str = "", limit: int = 50) -> JobsPage:
        """List jobs. Raises ``InvalidRequest`` for a cursor that is none, and ``Unavailable``."""
        try:
            jobs, next_cursor = await self._book.list_jobs(cursor, limit)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return JobsPage(tuple(jobs), next_cursor)

    async def work_on_jobs(self) -> None:
        """Work on the open jobs, whosever they are, until cancelled. Each worker takes a shard at a time."""
        workers = [asyncio.create_task(self._work(woken), name="jobs") for woken in self._woken]
        try:
            await asyncio.gather(*workers)
        finally:
            await end(workers)

    async def _work(self, woken: asyncio.Event) -> NoReturn:
        while True:
            woken.clear()
            try:
                while await self._take_turns():
                    pass
            except Unavailable as error:  # the store tells, once, that Redis is away
                log.debug("jobs_unreachable", cause=error.cause)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.8, 1.2)):  # noqa: S311 (only spread)
                    await woken.wait()

    async def _take_turns(self) -> bool:
        """Go through one shard for each open job, so that a large one does not hold up the others."""
        worked = False
        for job, selection in await self._book.open_jobs():
            if shard := await self._book.claim_shard(job):
                try:
                    await self._go_through(job, selection, shard)
                    worked = True
                except Unavailable:
                    raise
                except Exception:  # its shard falls to the next look, and the other jobs are none the worse
                    log.exception("job_broken", job=job)
        return worked

    async def _go_through(self, job: str, selection: Selection, shard: Shard) -> None:
        """Revoke all of the selection in a shard; who dies on the way leaves a lease that lapses, and all is repeated.

        Nothing of this does harm when it is done twice, or late: a floor is raised once for each job, and a token is
        revoked once.
        """
        loop = asyncio.get_running_loop()
        extended_at = due = loop.time()
        by_floor = selection.kind is not SelectionKind.TOPIC
        if by_floor:
            await self._queue.raise_watermark(_watermark_of(selection), job, [shard])
        async for handles in self._index.search_shard(selection, shard):
            for first in range(0, len(handles), AT_A_TIME):
                few = handles[first : first + AT_A_TIME]
                await self._queue.revoke_tokens(
                    shard, few, Priority.BULK, actor=Actor(f"job:{job}"), job=job, below_watermark=by_floor
                )
                due += len(few) / PACE
                await asyncio.sleep(max(LEAST_BREATH_S, due - loop.time()))
            if not handles:
                await asyncio.sleep(LEAST_BREATH_S)
            if loop.time() - extended_at > JOB_LEASE_MS / 3000:
                await self._book.extend_claim(job, shard)
                extended_at = loop.time()
        await self._book.finish_shard(job, shard)


def _watermark_of(selection: Selection) -> str:
    return EVERYTHING if selection.kind is SelectionKind.EVERYTHING else selection.value
