from __future__ import annotations

import pytest

from app.model.actors import Actor
from app.model.selections import Selection
from app.store.constants import JOB_KEPT_MS, JOB_LEASE_MS, JOB_SHARDS_AT_ONCE
from app.store.cursor import InvalidCursor
from app.store.jobs import JobStore, new_job_id
from app.store.records import Priority
from app.store.redis_keys import ALL_SHARDS, JOBS, OPEN_JOBS, SHARDS, Shard, job_key, job_work_key
from app.store.revocations import RevocationQueue
from app.store.store import Store
from tests.store.fleet import Fleet
from tests.store.test_tokens import keep

ROLE = Selection.of_role("sensor")


async def test_workers_share_a_job_shard_by_shard(book: JobStore) -> None:
    """No two hold one shard, and no more than a few are gone through at once; with all struck off the job is done."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=7)
    assert await book.open_jobs() == [("job", ROLE)]
    gone_through: set[Shard] = set()
    while claimed := {
        shard for shard in [await book.claim_shard("job") for _ in range(JOB_SHARDS_AT_ONCE + 1)] if shard
    }:
        assert len(claimed) == JOB_SHARDS_AT_ONCE
        assert claimed.isdisjoint(gone_through)
        gone_through |= claimed
        job = await book.read_job("job")
        assert job is not None
        assert (job.shards_done, job.done_at_ms) == (len(gone_through) - JOB_SHARDS_AT_ONCE, 0)
        for shard in claimed:
            await book.finish_shard("job", shard)
    assert gone_through == set(ALL_SHARDS)
    job = await book.read_job("job")
    assert job is not None
    assert (job.shards_done, job.selection, job.by, job.counted) == (SHARDS, ROLE, "operator:o", 7)
    assert job.done_at_ms >= job.created_at_ms > 0
    assert job.settled
    assert await book.open_jobs() == []


async def test_a_dead_worker_s_shard_falls_to_another(book: JobStore, store: Store) -> None:
    """After its lease, not before, unless it was extended."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=0)
    dead, slow = [await book.claim_shard("job") for _ in range(JOB_SHARDS_AT_ONCE)]
    assert dead is not None
    assert slow is not None
    store.clock.shift_ms = JOB_LEASE_MS - 1000
    assert await book.claim_shard("job") is None
    await book.extend_claim("job", slow)
    store.clock.shift_ms = JOB_LEASE_MS + 1000
    after = await book.claim_shard("job")
    assert after not in {None, dead, slow}
    assert await book.claim_shard("job") is None
    for shard in ALL_SHARDS:
        if shard not in {dead, slow}:
            await book.finish_shard("job", shard)
    assert await book.claim_shard("job") == dead
    assert await book.claim_shard("job") is None


async def test_a_late_worker_brings_no_shard_back(book: JobStore) -> None:
    """One that was struck off by another stays so, whatever its first worker still says."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=0)
    shard = await book.claim_shard("job")
    assert shard is not None
    await book.finish_shard("job", shard)
    await book.extend_claim("job", shard)
    await book.finish_shard("job", shard)
    job = await book.read_job("job")
    assert job is not None
    assert job.shards_done == 1


async def test_a_resent_start_changes_nothing(book: JobStore) -> None:
    """The job is there once, with the work that was done."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=5)
    shard = await book.claim_shard("job")
    assert shard is not None
    await book.finish_shard("job", shard)
    await book.start_job("job", Selection.of_everything(), actor=Actor("operator:x"), counted=6)
    job = await book.read_job("job")
    assert job is not None
    assert (job.shards_done, job.selection, job.counted) == (1, ROLE, 5)
    assert len(await book.open_jobs()) == 1


async def test_jobs_are_listed_from_the_newest(book: JobStore, store: Store) -> None:
    """Page by page, each once, also those of one instant and while others begin."""
    jobs = [new_job_id() for _ in range(7)]
    for number, job in enumerate(jobs):
        store.clock.shift_ms = number // 2 * 1000
        await book.start_job(job, ROLE, actor=Actor("operator:o"), counted=number)
    listed, cursor = await book.list_jobs("", 3)
    store.clock.shift_ms = 10_000
    await book.start_job("newer", ROLE, actor=Actor("operator:o"), counted=0)
    while cursor:
        more, cursor = await book.list_jobs(cursor, 3)
        listed += more
    assert [job.id for job in listed[:1]] == jobs[-1:]
    assert sorted(job.id for job in listed) == sorted(jobs)
    assert [job.created_at_ms for job in listed] == sorted((job.created_at_ms for job in listed), reverse=True)
    with pytest.raises(InvalidCursor, match="use next_cursor from the previous page"):
        await book.list_jobs("unknown", 3)
    assert await book.read_job("unknown") is None


async def test_a_job_tells_what_became_of_its_revocations(
    fleet: Fleet, book: JobStore, revocations: RevocationQueue
) -> None:
    """Each is counted once, whatever is sent again; a retry takes a failure back; an application counts on arrival."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=6)
    records = await fleet.issue_many(4)
    application = await fleet.begin_application("application")
    for _ in range(2):
        for handle in (*(record.handle for record in records), application.handle):
            shard = Shard.of_handle(handle)
            assert shard is not None
            await revocations.revoke_tokens(shard, [handle], Priority.BULK, job="job", actor=Actor("cli:test"))

    async def counts() -> tuple[int, ...]:
        job = await book.read_job("job")
        assert job is not None
        return job.queued, job.confirmed, job.failed, job.lapsed, job.dropped, job.waiting

    assert await counts() == (4, 0, 0, 0, 0, 4)
    for _ in range(2):
        assert await keep(fleet.tokens, fleet.store, application) == "revoked"
    assert await counts() == (5, 0, 0, 0, 0, 5)
    for shard in await revocations.next_shards():
        claim = await revocations.claim_revocation(shard)
        assert claim is not None
        for _ in range(2):
            assert await revocations.record_delivery(
                claim, "confirmed" if claim.handle == application.handle else "failed"
            )
    assert await counts() == (5, 1, 4, 0, 0, 0)
    assert await revocations.resolve_revocation(records[0].handle, "drop", actor=Actor("cli:test"))
    assert await revocations.resolve_revocation(records[1].handle, "retry", actor=Actor("cli:test"))
    assert await counts() == (5, 1, 2, 0, 1, 1)
    fleet.store.clock.shift_ms = 3_700_000
    await revocations.next_shards()
    assert await counts() == (5, 1, 0, 3, 1, 0)


async def test_a_job_ends_by_itself(book: JobStore, store: Store) -> None:
    """No key of it is without an end."""
    await book.start_job("job", ROLE, actor=Actor("operator:o"), counted=0)
    for key in (JOBS, OPEN_JOBS, job_key("job"), job_work_key("job")):
        assert 0 < await store.requests.command("PTTL", key) <= JOB_KEPT_MS
