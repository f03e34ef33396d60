from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.errors import InvalidRequest, NotFound
from app.model.actors import Actor
from app.model.selections import Selection
from app.service import jobs as module
from app.service.jobs import Jobs
from app.store.constants import EVERYTHING, JOB_LEASE_MS, JOB_SHARDS_AT_ONCE
from app.store.index import TokenIndex
from app.store.jobs import Job, JobStore, new_job_id
from app.store.redis_keys import ALL_SHARDS, SHARDS, Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from app.tasks import end
from tests.store.fleet import Fleet
from tests.store.test_tokens import ask, keep
from tests.waiting import until


@pytest.fixture(autouse=True)
def _no_long_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice another's job at once, and go on without much breath."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0)


@pytest.fixture
def jobs(book: JobStore, index: TokenIndex, revocations: RevocationQueue) -> Jobs:
    """The jobs as one instance sees them."""
    return Jobs(book, index, revocations)


@dataclass
class Workers:
    """Instances that work on jobs."""

    make: Callable[[], Jobs]
    tasks: list[asyncio.Task[None]]

    def begin(self, count: int = 1) -> list[asyncio.Task[None]]:
        """Begin so many."""
        begun = [asyncio.create_task(self.make().work_on_jobs()) for _ in range(count)]
        self.tasks += begun
        return begun


@pytest.fixture
async def workers(book: JobStore, index: TokenIndex, revocations: RevocationQueue) -> AsyncIterator[Workers]:
    """A way to have instances work."""
    workers = Workers(lambda: Jobs(book, index, revocations), [])
    yield workers
    await end(workers.tasks)


async def done(jobs: Jobs, job: Job) -> Job:
    """Wait until a job has gone through everything."""

    async def over() -> bool:
        return (await jobs.get_job(job.id)).done_at_ms > 0

    await until(over, "the job done")
    return await jobs.get_job(job.id)


async def queued(store: Store) -> set[str]:
    """Return the handles in all queues."""
    rows = await store.requests.pipeline([("ZRANGE", shard.queue, 0, -1) for shard in ALL_SHARDS])
    return {handle for row in rows for handle in row}


@pytest.mark.parametrize("instances", [1, 3])
async def test_a_role_is_denied_at_once_and_queued_to_the_end(
    fleet: Fleet, store: Store, jobs: Jobs, workers: Workers, instances: int
) -> None:
    """When the job is answered nothing of the role is handed out; then each token is queued once, by all instances."""
    sensors = await fleet.issue_many(25)
    lines = [await fleet.issue(f"l{number}", role="line") for number in range(5)]
    job = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=25)
    assert {(await fleet.read(record.handle)).state for record in sensors} == {"revoked"}
    assert await queued(store) == set()
    workers.begin(instances)
    after = await done(jobs, job)
    assert (after.counted, after.queued, after.waiting, after.shards_done) == (25, 25, 25, SHARDS)
    assert await queued(store) == {record.handle for record in sensors}
    assert {(await fleet.read(record.handle)).state for record in lines} == {"live"}


@pytest.mark.parametrize(("tokens_per_s", "min_pause_s"), [(1e9, 0.03), (50, 0.001)])
async def test_a_worker_pauses_after_each_step(
    fleet: Fleet,
    store: Store,
    book: JobStore,
    index: TokenIndex,
    jobs: Jobs,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    tokens_per_s: float,
    min_pause_s: float,
) -> None:
    """For the least pause at least, so that others use Redis meanwhile, and for its pace."""
    monkeypatch.setattr(module, "TOKENS_PER_S", tokens_per_s)
    monkeypatch.setattr(module, "MIN_PAUSE_S", min_pause_s)
    monkeypatch.setattr(module, "STEP_TOKENS", 2)
    clock = asyncio.get_running_loop().time
    began: list[float] = []
    ended: list[float] = []

    class Timing(RevocationQueue):
        """Notes when each step in one shard begins and ends."""

        async def revoke_tokens(self, shard: Shard, *args: Any, **options: Any) -> int:
            if shard != Shard(7):
                return await super().revoke_tokens(shard, *args, **options)
            began.append(clock())
            revoked = await super().revoke_tokens(shard, *args, **options)
            ended.append(clock())
            return revoked

    names = [f"f{number}" for number in range(700)]
    for name in [name for name in names if Shard.of(f"GID_plant@@@{name}") == Shard(7)][:8]:
        await fleet.issue(name)
    job = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=0)
    workers.tasks.append(asyncio.create_task(Jobs(book, index, Timing(store)).work_on_jobs()))
    assert (await done(jobs, job)).queued == 8
    pauses = [next_began - this_ended for this_ended, next_began in zip(ended, began[1:], strict=False)]
    assert len(pauses) == 3
    assert min(pauses) >= min_pause_s
    # The first pause is shorter by the time from the claim to the first step.
    assert began[3] - began[0] >= 2 * 2 / tokens_per_s


async def test_a_job_that_breaks_holds_up_no_other(
    fleet: Fleet, store: Store, book: JobStore, index: TokenIndex, jobs: Jobs, workers: Workers
) -> None:
    """Whatever is wrong with one, those after it are gone through."""
    await fleet.issue_many(5)
    broken = await jobs.start_job(Selection.of_topic("plant/#"), actor=Actor("operator:o"), counted=5)
    good = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=5)

    class Breaking(RevocationQueue):
        """Cannot take what one job asks for."""

        async def revoke_tokens(self, *args: Any, **options: Any) -> int:
            if options["job"] == broken.id:
                raise ValueError("a fault of this server's own")
            return await super().revoke_tokens(*args, **options)

    workers.tasks.append(asyncio.create_task(Jobs(book, index, Breaking(store)).work_on_jobs()))
    assert (await done(jobs, good)).queued == 5
    assert (await jobs.get_job(broken.id)).done_at_ms == 0


async def test_a_topic_is_revoked_shard_by_shard(fleet: Fleet, store: Store, jobs: Jobs, workers: Workers) -> None:
    """What overlaps is taken, flights too, what does not stays; one that lands later never leaves the server."""
    hit = [await fleet.issue(f"h{number}", scope=f"pub:Plant7/h{number} sub:x/y") for number in range(10)]
    missed = [await fleet.issue(f"m{number}", scope=f"pub:plant8/m{number} sub:plant7/#") for number in range(10)]
    application = await fleet.begin_application("flight", scope="pub:plant7/#")
    job = await jobs.start_job(Selection.of_topic("pub:plant7/+"), actor=Actor("operator:o"), counted=11)
    workers.begin(2)
    after = await done(jobs, job)
    assert after.queued == 10
    assert await queued(store) == {record.handle for record in hit}
    assert {(await fleet.read(record.handle)).state for record in missed} == {"live"}
    assert await keep(fleet.tokens, store, application) == "revoked"
    assert (await jobs.get_job(job.id)).queued == 11


async def test_everything_is_revoked_and_what_comes_after_stays(
    fleet: Fleet, store: Store, jobs: Jobs, workers: Workers
) -> None:
    """A token begun after the job was answered is not taken, though the job has not come to its shard yet."""
    before = await fleet.issue_many(20)
    job = await jobs.start_job(Selection.of_everything(), actor=Actor("operator:o"), counted=20)
    after = await fleet.issue_many(20, prefix="later")
    workers.begin(2)
    assert (await done(jobs, job)).queued == 20
    assert await queued(store) == {record.handle for record in before}
    assert {(await fleet.read(record.handle)).state for record in after} == {"live"}


async def test_an_id_that_was_shown_begins_one_job_of_one_selection(fleet: Fleet, jobs: Jobs, workers: Workers) -> None:
    """Sent twice, it is begun once, and takes nothing that came after; for anything else the ID is refused."""
    await fleet.issue_many(3)
    job = new_job_id()
    first = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=3, job=job)
    later = await fleet.issue_many(3, prefix="later")
    again = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:p"), counted=6, job=job)
    assert (first.id, again) == (job, first)
    workers.begin()
    assert (await done(jobs, first)).queued == 3
    assert (
        await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=3, job=job)
    ).queued == 3
    for selection in (Selection.of_role("line"), Selection.of_topic("plant/#"), Selection.of_everything()):
        with pytest.raises(InvalidRequest, match="another selection"):
            await jobs.start_job(selection, actor=Actor("operator:o"), counted=3, job=job)
    for wrong in ("x", job.upper() + "\n", "*", "a" * 10_000):
        with pytest.raises(InvalidRequest, match="not a valid job ID"):
            await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=3, job=wrong)
    assert {(await fleet.read(record.handle)).state for record in later} == {"live"}
    assert [each.id for each in (await jobs.list_jobs()).jobs] == [job]


async def test_a_job_is_finished_by_another_when_its_worker_dies(
    fleet: Fleet,
    store: Store,
    book: JobStore,
    index: TokenIndex,
    jobs: Jobs,
    workers: Workers,
) -> None:
    """Killed in the middle of its shards, of a chunk even: nothing is lost and nothing is counted twice."""
    records = await fleet.issue_many(20)
    job = await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=20)
    died = asyncio.Semaphore(0)

    class Dying(RevocationQueue):
        """Revokes some of a chunk and is never heard of again."""

        async def revoke_tokens(self, shard: Shard, handles: object, *args: object, **options: object) -> int:
            await super().revoke_tokens(shard, list(handles)[:1], *args, **options)  # type: ignore[call-overload,arg-type]
            died.release()
            await asyncio.Event().wait()
            return 0

    dying = asyncio.create_task(Jobs(book, index, Dying(store)).work_on_jobs())
    workers.tasks.append(dying)
    for _ in range(JOB_SHARDS_AT_ONCE):
        await died.acquire()
    assert len(await queued(store)) == JOB_SHARDS_AT_ONCE
    workers.begin()
    assert await book.claim_shard(job.id) is None
    assert (await jobs.get_job(job.id)).done_at_ms == 0
    store.clock.shift_ms = JOB_LEASE_MS + 1
    after = await done(jobs, job)
    assert after.queued == 20
    assert await queued(store) == {record.handle for record in records}


async def test_a_start_that_was_never_answered_is_finished_whole(
    fleet: Fleet, store: Store, book: JobStore, jobs: Jobs, workers: Workers, revocations: RevocationQueue
) -> None:
    """Its instance died after some floors, or before any: a worker raises the rest, so it is never half."""
    records = await fleet.issue_many(20)
    await book.start_job("half", Selection.of_everything(), actor=Actor("operator:o"), counted=20)
    await revocations.raise_watermark(EVERYTHING, "half", ALL_SHARDS[:32])
    states = {(await fleet.read(record.handle)).state for record in records}
    assert states == {"live", "revoked"}
    workers.begin()
    assert (await done(jobs, await jobs.get_job("half"))).queued == 20
    assert {(await fleet.read(record.handle)).state for record in records} == {"revoked"}
    assert len(await queued(store)) == 20


async def test_the_same_job_twice_does_no_harm(fleet: Fleet, store: Store, jobs: Jobs, workers: Workers) -> None:
    """Two jobs of one selection queue each token once, between them."""
    records = await fleet.issue_many(30)
    two = [await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=30) for _ in range(2)]
    workers.begin(2)
    counts = [(await done(jobs, job)).queued for job in two]
    assert sum(counts) == 30
    assert await queued(store) == {record.handle for record in records}
    page = await jobs.list_jobs()
    assert [job.id for job in page.jobs] == [two[1].id, two[0].id]


async def test_a_flight_under_a_floor_gives_way(fleet: Fleet, jobs: Jobs) -> None:
    """Who waits for it leads in its place as soon as the job is answered."""
    application = await fleet.begin_application("d1")
    assert (await ask(fleet.tokens, application.wanted, "r2")).status == "wait"
    await jobs.start_job(Selection.of_role("sensor"), actor=Actor("operator:o"), counted=1)
    assert (await ask(fleet.tokens, application.wanted, "r2")).status == "apply"
    assert await keep(fleet.tokens, fleet.store, application) == "revoked"


async def test_what_is_not_there_is_told(jobs: Jobs) -> None:
    """Neither a job nor a cursor is invented."""
    with pytest.raises(NotFound, match="no such job"):
        await jobs.get_job("unknown")
    with pytest.raises(InvalidRequest, match="cursor"):
        await jobs.list_jobs("unknown")
