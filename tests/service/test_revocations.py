from __future__ import annotations

import pytest

from app.errors import InvalidRequest, NotFound
from app.model.actors import Actor
from app.model.policy_file import parse_policy
from app.model.selections import Selection
from app.service import revocations as module
from app.service.jobs import Jobs
from app.service.registry import Registry
from app.service.revocations import Overview, RevocationPreview, Revocations, RevokeResult
from app.store.devices import Devices
from app.store.index import TokenIndex
from app.store.jobs import Job, JobStore
from app.store.redis_keys import Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from tests.actors import CLI
from tests.store.fleet import Fleet
from tests.store.test_tokens import ask

POLICY = parse_policy(b'[roles.sensor]\nmatch = ["GID_plant@@@*"]\npublish = ["plant/{device_id}"]\n', "policy.toml")


@pytest.fixture
def woken() -> list[None]:
    """Once for each time that the delivery was woken."""
    return []


@pytest.fixture
def service(
    store: Store,
    devices: Devices,
    tokens: Tokens,
    index: TokenIndex,
    revocations: RevocationQueue,
    book: JobStore,
    woken: list[None],
) -> Revocations:
    """What operators do, at five calls a second."""
    jobs = Jobs(book, index, revocations)
    registry = Registry(devices, lambda: POLICY, store.clock)
    return Revocations(tokens, index, revocations, registry, jobs, pace=5, wake=lambda: woken.append(None))


async def test_a_token_is_revoked_at_once_and_its_device_applies_anew(
    fleet: Fleet, service: Revocations, woken: list[None]
) -> None:
    """Revoking a token does not lock its device out; once more changes nothing and says so."""
    record = await fleet.issue("d1")
    for count in (1, 0):
        result = await service.revoke_selection(Selection.of_handle(record.handle), actor=Actor("operator:o"))
        assert result == RevokeResult(record.client_id, record.handle, count)
    assert len(woken) == 2
    assert (await service.get_token(record.handle)).revocation == "queued"
    with pytest.raises(NotFound):
        await service.revoke_selection(Selection.of_handle("00-" + "x" * 22), actor=Actor("operator:o"))


async def test_a_device_is_revoked_without_being_disabled(fleet: Fleet, service: Revocations, devices: Devices) -> None:
    """Its epoch rises, all it holds goes, and it may apply at once."""
    record = await fleet.issue("d1")
    application = await fleet.begin_application("d2")
    before = await devices.read_device(record.client_id)
    result = await service.revoke_selection(Selection.of_client_id(record.client_id), actor=Actor("operator:o"))
    assert result == RevokeResult(record.client_id, "", 1)
    after = await devices.read_device(record.client_id)
    assert before is not None
    assert after is not None
    assert int(after.device.epoch) > int(before.device.epoch)
    assert not after.device.disabled
    assert (await service.get_token(record.handle)).state == "revoked"
    assert (await ask(fleet.tokens, application.wanted, "r2")).status == "wait"
    with pytest.raises(NotFound):
        await service.revoke_selection(Selection.of_client_id("GID_plant@@@nobody"), actor=Actor("operator:o"))


async def test_what_is_larger_is_a_job(fleet: Fleet, service: Revocations) -> None:
    """It is counted first, unless that was shown already."""
    await fleet.issue_many(3)
    assert await service.count_tokens(Selection.of_role("sensor")) == 3
    job = await service.revoke_selection(Selection.of_role("sensor"), actor=Actor("operator:o"))
    assert isinstance(job, Job)
    assert (job.counted, job.by, job.selection) == (3, "operator:o", Selection.of_role("sensor"))
    job = await service.revoke_selection(Selection.of_topic("plant/#"), actor=Actor("operator:o"), counted=17)
    assert isinstance(job, Job)
    assert job.counted == 17


async def test_what_a_revoke_would_take_is_told_before(
    fleet: Fleet, service: Revocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens, devices, and when the cloud will know, behind what goes first; in a hurry, what is known so far."""
    records = [await fleet.issue(f"d{number}", scope=f"pub:a/{number} sub:b/{number}") for number in range(4)]
    await fleet.issue("line", role="line", scope="sub:line/x")
    assert await service.preview_selection(Selection.of_role("sensor")) == RevocationPreview(4, 4, 8 / 5)
    assert await service.preview_selection(Selection.of_topic("line/#")) == RevocationPreview(1, 1, 1 / 5)
    assert await service.preview_selection(Selection.of_client_id(records[0].client_id)) == RevocationPreview(
        1, 1, 2 / 5
    )
    assert await service.preview_tokens(records[:2]) == RevocationPreview(2, 2, 4 / 5)
    await service.revoke_selection(Selection.of_handle(records[0].handle), actor=Actor("operator:o"))
    assert await service.preview_tokens([await fleet.read(records[0].handle), records[1]]) == RevocationPreview(
        1, 1, 4 / 5
    )
    assert (await service.preview_selection(Selection.of_role("sensor"))).est_confirmed_s == 8 / 5
    with pytest.raises(NotFound):
        await service.preview_selection(Selection.of_client_id("GID_plant@@@nobody"))

    monkeypatch.setattr(module, "PREVIEW_BUDGET_S", -1)
    everything = await service.preview_selection(Selection.of_everything())
    assert (everything.tokens, everything.tokens_exact, everything.devices_exact) == (4, True, False)
    topic = await service.preview_selection(Selection.of_topic("+/+"))
    assert (topic.tokens < 4, topic.tokens_exact) == (True, False)


async def test_records_are_read_by_any_texts(fleet: Fleet, service: Revocations) -> None:
    """What is no handle, or unknown, is known as that."""
    record = await fleet.issue("d1")
    unknown = ["00-" + "x" * 22, "nonsense", "", "99-" + "x" * 22]
    assert await service.get_tokens([*unknown, record.handle]) == [None] * 4 + [record]
    assert await service.get_tokens(["nonsense"]) == [None]
    page = await service.list_tokens(Selection.of_everything(), limit=1)
    assert await service.search_progress(page.next_cursor) == 1
    with pytest.raises(InvalidRequest, match="cursor"):
        await service.search_progress("nonsense")


async def test_the_queue_is_shown_with_the_time_it_will_take(
    fleet: Fleet, service: Revocations, revocations: RevocationQueue
) -> None:
    """A token of two cloud tokens takes two calls; failed ones wait for an operator and take none."""
    assert await service.queue_overview() == Overview(0, 0, 0)
    for name, scope in (("d1", "pub:a/b"), ("d2", "pub:a/b sub:a/c"), ("d3", "pub:a/b sub:a/b")):
        await fleet.tokens.revoke_token(await fleet.issue(name, scope=scope), actor=Actor("cli:test"))
    assert await service.queue_overview() == Overview(queued=3, failed=0, est_empty_s=4 / 5)
    page = await service.list_queue("queued", limit=2)
    rest = await service.list_queue("queued", page.next_cursor, limit=2)
    handles = [record.handle for record in (*page.records, *rest.records)]
    assert len(set(handles)) == 3
    assert rest.next_cursor == ""
    shard = Shard.of_handle(handles[0])
    assert shard is not None
    claim = await revocations.claim_revocation(shard)
    assert claim is not None
    assert [record.handle for record in (await service.list_queue("delayed")).records] == [claim.handle]
    await revocations.record_delivery(claim, "failed")
    [failed] = (await service.list_queue("failed")).records
    assert (failed.handle, failed.revocation) == (claim.handle, "failed")
    assert (await service.queue_overview()).failed == 1
    with pytest.raises(InvalidRequest, match="cursor"):
        await service.list_queue("failed", "nonsense")


async def test_only_what_failed_is_retried_or_dropped(
    fleet: Fleet, service: Revocations, revocations: RevocationQueue
) -> None:
    """Anything else is told as not there; a retry is delivered at once."""
    record = await fleet.issue("d1")
    await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    for handle in (record.handle, "unknown"):
        for verb in (service.retry_revocation, service.drop_revocation):
            with pytest.raises(NotFound):
                await verb(handle, actor=CLI)
    for verb, outcome in ((service.retry_revocation, "queued"), (service.drop_revocation, "dropped")):
        claim = await revocations.claim_revocation(Shard.of(record.client_id))
        assert claim is not None
        await revocations.record_delivery(claim, "failed")
        assert (await verb(record.handle, actor=CLI)).revocation == outcome


async def test_live_tokens_are_listed(fleet: Fleet, service: Revocations) -> None:
    """By any selection; a wrong cursor is refused."""
    records = await fleet.issue_many(3)
    page = await service.list_tokens(Selection.of_role("sensor"), limit=2)
    rest = await service.list_tokens(Selection.of_role("sensor"), page.next_cursor, limit=2)
    assert {record.handle for record in (*page.records, *rest.records)} == {record.handle for record in records}
    with pytest.raises(InvalidRequest, match="cursor"):
        await service.list_tokens(Selection.of_role("sensor"), "nonsense")
