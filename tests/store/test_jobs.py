from __future__ import annotations

import pytest

from app.model.actors import Actor
from app.model.selections import Selection
from app.store.constants import JOB_KEPT_MS, JOB_LEASE_MS, JOB_SHARDS_AT_ONCE
from app.store.jobs import JobStore, draw_id
from app.store.records import Priority
from app.store.redis_keys import ALL_SHARDS, JOBS, OPEN_JOBS, SHARDS, Shard, job_key, job_work_key
from app.store.revocations import RevocationQueue
from app.store.store import Store
from tests.store.fleet import Fleet
from tests.store.test_tokens import keep

ROLE = Selection.of_role("sensor")


async def test_workers_share_a_job_shard_by_shard(book: JobStore) -> None:
    """No two hold one shard, and no more than a few are gone through at once; with all struck off the job is done."""
    await book.start("job", ROLE, Actor("operator:o"), 7)
    assert await book.open() == [("job", ROLE)]
    gone_through: set[Shard] = set()
    while claimed := {shard for shard in [await book.claim("job") for _ in range(JOB_SHARDS_AT_ONCE + 1)] if shard}:
        assert len(claimed) == JOB_SHARDS_AT_ONCE
        assert claimed.isdisjoint(gone_through)
        gone_through |= claimed
        job = await book.read("job")
        assert job is not None
        assert (job.shards_done, job.done_at_ms) == (len(gone_through) - JOB_SHARDS_AT_ONCE, 0)
        for shard in claimed:
            await book.shard_done("job", shard)
    assert gone_through == set(ALL_SHARDS)
    job = await book.read("job")
    assert job is not None
    assert (job.shards_done, job.selection, job.by, job.counted) == (SHARDS, ROLE, "operator:o", 7)
    assert job.done_at_ms >= job.created_at_ms > 0
    assert job.settled
    assert await book.open() == []


async def test_a_dead_worker_s_shard_falls_to_another(book: JobStore, store: Store) -> None:
    """After its lease, not before, unless it was extended."""
    await book.start("job", ROLE, Actor("operator:o"), 0)
    dead, slow = [await book.claim("job") for _ in range(JOB_SHARDS_AT_ONCE)]
    assert dead is not None
    assert slow is not None
    store.clock.shift_ms = JOB_LEASE_MS - 1000
    assert await book.claim("job") is None
    await book.extend("job", slow)
    store.clock.shift_ms = JOB_LEASE_MS + 1000
    after = await book.claim("job")
    assert after not in {None, dead, slow}
    assert await book.claim("job") is None
    for shard in ALL_SHARDS:
        if shard not in {dead, slow}:
            await book.shard_done("job", shard)
    assert await book.claim("job") == dead
    assert await book.claim("job") is None


async def test_a_late_worker_brings_no_shard_back(book: JobStore) -> None:
    """One that was struck off by another stays so, whatever its first worker still says."""
    await book.start("job", ROLE, Actor("operator:o"), 0)
    shard = await book.claim("job")
    assert shard is not None
    await book.shard_done("job", shard)
    await book.extend("job", shard)
    await book.shard_done("job", shard)
    job = await book.read("job")
    assert job is not None
    assert job.shards_done == 1


async def test_a_resent_start_changes_nothing(book: JobStore) -> None:
    """The job is there once, with the work that was done."""
    await book.start("job", ROLE, Actor("operator:o"), 5)
    shard = await book.claim("job")
    assert shard is not None
    await book.shard_done("job", shard)
    await book.start("job", Selection.of_everything(), Actor("operator:x"), 6)
    job = await book.read("job")
    assert job is not None
    assert (job.shards_done, job.selection, job.counted) == (1, ROLE, 5)
    assert len(await book.open()) == 1


async def test_jobs_are_listed_from_the_newest(book: JobStore, store: Store) -> None:
    """Page by page, each once, also those of one instant and while others begin."""
    jobs = [draw_id() for _ in range(7)]
    for number, job in enumerate(jobs):
        store.clock.shift_ms = number // 2 * 1000
        await book.start(job, ROLE, Actor("operator:o"), number)
    listed, cursor = await book.page("", 3)
    store.clock.shift_ms = 10_000
    await book.start("newer", ROLE, Actor("operator:o"), 0)
    while cursor:
        more, cursor = await book.page(cursor, 3)
        listed += more
    assert [job.id for job in listed[:1]] == jobs[-1:]
    assert sorted(job.id for job in listed) == sorted(jobs)
    assert [job.created_at_ms for job in listed] == sorted((job.created_at_ms for job in listed), reverse=True)
    with pytest.raises(ValueError, match="no cursor"):
        await book.page("unknown", 3)
    assert await book.read("unknown") is None


async def test_a_job_tells_what_became_of_its_revocations(
    fleet: Fleet, book: JobStore, revocations: RevocationQueue
) -> None:
    """Each is counted once, whatever is sent again; a retry takes its failure back; a flight counts on arrival."""
    await book.start("job", ROLE, Actor("operator:o"), 6)
    records = await fleet.issue_many(4)
    application = await fleet.lead("flight")
    for _ in range(2):
        for handle in (*(record.handle for record in records), application.handle):
            shard = Shard.of_handle(handle)
            assert shard is not None
            await revocations.revoke(shard, [handle], Priority.BULK, job="job", actor=Actor("cli:test"))

    async def counts() -> tuple[int, ...]:
        job = await book.read("job")
        assert job is not None
        return job.queued, job.confirmed, job.failed, job.lapsed, job.dropped, job.waiting

    assert await counts() == (4, 0, 0, 0, 0, 4)
    for _ in range(2):
        assert await keep(fleet.tokens, fleet.store, application) == "revoked"
    assert await counts() == (5, 0, 0, 0, 0, 5)
    for shard in await revocations.turns():
        claim = await revocations.claim(shard)
        assert claim is not None
        for _ in range(2):
            assert await revocations.settle(claim, "confirmed" if claim.handle == application.handle else "failed")
    assert await counts() == (5, 1, 4, 0, 0, 0)
    assert await revocations.resolve(records[0].handle, "drop", actor=Actor("cli:test"))
    assert await revocations.resolve(records[1].handle, "retry", actor=Actor("cli:test"))
    assert await counts() == (5, 1, 2, 0, 1, 1)
    fleet.store.clock.shift_ms = 3_700_000
    await revocations.turns()
    assert await counts() == (5, 1, 0, 3, 1, 0)


async def test_a_job_ends_by_itself(book: JobStore, store: Store) -> None:
    """No key of it is without an end."""
    await book.start("job", ROLE, Actor("operator:o"), 0)
    for key in (JOBS, OPEN_JOBS, job_key("job"), job_work_key("job")):
        assert 0 < await store.requests.command("PTTL", key) <= JOB_KEPT_MS
