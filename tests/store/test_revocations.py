from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import Unavailable
from app.model.actors import Actor
from app.model.calls import CallRank
from app.model.devices import Device
from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.model.selections import Selection
from app.store.constants import CLAIM_MS, EVERYTHING, LAPSE_MS, QUEUE_HEAD_LENGTH
from app.store.devices import Devices, Registered
from app.store.jobs import JobStore
from app.store.quota import VALID_S, PermitQuestion, QuotaSettings, SharedQuota
from app.store.records import CloudTokenOfType, Priority, TokenRecord
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.revocations import Backlog, Claim, RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.events import CHANGED
from tests.store.fleet import KEY, Fleet
from tests.store.test_tokens import begin_application, want

LIFE_S = 3600


async def revoked_token(tokens: Tokens, store: Store, device: Device) -> TokenRecord:
    """Return the record of a token that was issued and revoked."""
    lease = await begin_application(tokens, want(device, life_s=LIFE_S))
    await tokens.store(
        lease,
        (CloudTokenOfType(TokenType.W, CloudToken("t")),),
        store.clock.now_ms() + LIFE_S * 1000,
        whole=True,
        actor=Actor("device:test"),
    )
    record = await tokens.read_token(lease.handle)
    assert record is not None
    await tokens.revoke_token(record, actor=Actor("cli:test"))
    return record


async def test_a_revocation_is_claimed_by_one_worker(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """What one worker claimed no other gets, until the claim lapses."""
    record = await revoked_token(tokens, store, device)
    [shard] = await revocations.next_shards()
    claim = await revocations.claim_revocation(shard)
    assert claim is not None
    assert claim.handle == record.handle
    assert await revocations.claim_revocation(shard) is None
    store.clock.shift_ms = CLAIM_MS + 1
    assert await revocations.next_shards() == [shard]
    again = await revocations.claim_revocation(shard)
    assert again is not None
    assert again.handle == record.handle


async def test_a_worker_paused_past_its_claim_settles_nothing(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """The claim's number fences it off: the later worker's word stands."""
    await revoked_token(tokens, store, device)
    shard = Shard.of(device.client_id)
    late = await revocations.claim_revocation(shard)
    store.clock.shift_ms = CLAIM_MS + 1
    assert await revocations.next_shards() == [shard]
    current = await revocations.claim_revocation(shard)
    assert late is not None
    assert current is not None
    assert await revocations.record_delivery(late, "confirmed") is False
    assert await revocations.record_delivery(current, "queued", again_in_ms=5000) is True
    store.clock.shift_ms += 4000
    assert await revocations.next_shards() == []
    store.clock.shift_ms += 2000
    assert await revocations.next_shards() == [shard]
    last = await revocations.claim_revocation(shard)
    assert last is not None
    assert last.attempts == 1


async def test_what_was_claimed_without_a_call_is_neither_an_attempt_nor_a_try(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """It goes back into the queue as it was."""
    await revoked_token(tokens, store, device)
    shard = Shard.of(device.client_id)
    claim = await revocations.claim_revocation(shard)
    assert claim is not None
    assert await revocations.record_delivery(claim, "queued", again_in_ms=500, tried=False) is True
    store.clock.shift_ms += 600
    assert await revocations.next_shards() == [shard]
    again = await revocations.claim_revocation(shard)
    assert again is not None
    assert (again.tries, again.attempts) == (0, 0)


async def test_a_confirmed_revocation_leaves_the_queue_and_its_token_is_forgotten(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """What the cloud confirmed is final, and the worthless cloud token is not kept."""
    record = await revoked_token(tokens, store, device)
    claim = await revocations.claim_revocation(Shard.of(device.client_id))
    assert claim is not None
    assert await revocations.record_delivery(claim, "confirmed") is True
    assert await revocations.next_shards() == []
    after = await tokens.read_token(record.handle)
    assert after is not None
    assert (after.revocation, after.sealed, after.state) == ("confirmed", None, "revoked")


async def test_a_token_that_outlived_itself_needs_no_revoking(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """Some time after the cloud's expiry a revocation lapses without a call."""
    record = await revoked_token(tokens, store, device)
    store.clock.shift_ms = LIFE_S * 1000 + LAPSE_MS + 1000
    assert await revocations.claim_revocation(Shard.of(device.client_id)) is None
    after = await tokens.read_token(record.handle)
    assert after is not None
    assert after.revocation == "lapsed"
    assert await revocations.next_shards() == []


async def claims(revocations: RevocationQueue) -> AsyncIterator[Claim]:
    """Claim whatever is first over all shards, as a delivery does, until nothing is left."""
    while turns := await revocations.next_shards():
        for shard in turns:
            claim = await revocations.claim_revocation(shard)
            assert claim is not None
            yield claim


async def test_turns_go_by_priority_then_by_the_longest_remaining_life_over_all_shards(
    fleet: Fleet, revocations: RevocationQueue
) -> None:
    """An operator's single revoke passes any bulk, a bulk any device's own; within one, who lives longest is first."""
    issued = [fleet.issue(f"d{number}", life_s=1000 + 37 * number % 1500) for number in range(36)]
    expected = []
    for record, priority in zip(await asyncio.gather(*issued), list(Priority) * 12, strict=True):
        await revocations.revoke_tokens(Shard.of(record.client_id), [record.handle], priority, actor=Actor("cli:test"))
        expected.append((priority, -record.expires_at_ms, record.handle))
    assert [claim.handle async for claim in claims(revocations)] == [handle for _, _, handle in sorted(expected)]
    assert len({Shard.of_handle(handle) for _, _, handle in expected}) > 10


async def test_a_long_queue_of_one_shard_is_not_cut_short(fleet: Fleet, revocations: RevocationQueue) -> None:
    """What lies deeper in a shard than was looked comes before what is less urgent in another."""
    shard, names = ALL_SHARDS[7], (f"d{number}" for number in range(10_000))
    crowd = [name for name in names if Shard.of(f"GID_plant@@@{name}") == shard][: QUEUE_HEAD_LENGTH + 2]
    urgent = [await fleet.issue(name) for name in crowd]
    for record in urgent:
        await fleet.tokens.revoke_token(record, Priority.OPERATOR, actor=Actor("operator:o"))
    other = await fleet.issue("d0")
    await fleet.tokens.revoke_token(other, Priority.DEVICE, actor=Actor("device:d"))
    assert Shard.of(other.client_id) != shard
    order = [claim.handle async for claim in claims(revocations)]
    assert set(order[:-1]) == {record.handle for record in urgent}
    assert order[-1] == other.handle


async def test_a_revocation_whose_record_is_gone_is_no_claim(
    fleet: Fleet, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """The worker is given what comes after it."""
    record = await revoked_token(fleet.tokens, store, device)
    shard = Shard.of(device.client_id)
    await store.requests.command("DEL", shard.token(record.handle))
    assert await revocations.claim_revocation(shard) is None
    assert (await revocations.read_backlog()).queued == 0


async def test_a_revocation_moves_forward_when_somebody_who_goes_first_asks_for_it(
    fleet: Fleet, revocations: RevocationQueue
) -> None:
    """Revoked once more it stays one revocation; a later, lesser wish does not move it back."""
    records = [await fleet.issue(f"d{number}", life_s=2000 - number) for number in range(5)]
    for record in records:
        await fleet.tokens.revoke_token(record, Priority.BULK, actor=Actor("cli:test"))
    assert not await fleet.tokens.revoke_token(records[-1], Priority.OPERATOR, actor=Actor("cli:test"))
    assert not await fleet.tokens.revoke_token(records[-1], Priority.DEVICE, actor=Actor("cli:test"))
    order = [claim.handle async for claim in claims(revocations)]
    assert order == [record.handle for record in (records[-1], *records[:-1])]


async def test_a_device_may_hold_thousands(
    store: Store, devices: Devices, revocations: RevocationQueue, device: Device
) -> None:
    """However many tokens a device was allowed, one revoke takes them all: Lua's own limits are kept."""
    shard, until_ms = Shard.of(device.client_id), store.clock.now_ms() + LIFE_S * 1000
    handles = [f"{shard.number:02}-{number}" for number in range(9000)]
    fields = ("state", "live", "client_id", device.client_id, "role", "sensor", "expires_at_ms", until_ms)
    await store.requests.pipeline([("HSET", shard.token(Handle(handle)), *fields) for handle in handles])
    for key in (shard.device_index(device.client_id), shard.index, shard.role_index("sensor")):
        await store.requests.pipeline([("ZADD", key, until_ms, handle) for handle in handles])
    _, revoked = await devices.change_device(device, Registered(device, KEY), CHANGED, revoke=True)
    assert revoked == len(handles)
    assert (await revocations.read_backlog()).queued == len(handles)
    assert (
        await store.requests.command(
            "EXISTS", shard.device_index(device.client_id), shard.index, shard.role_index("sensor")
        )
        == 0
    )


async def test_what_outlived_itself_lapses_in_the_tail_too(
    fleet: Fleet, store: Store, revocations: RevocationQueue
) -> None:
    """What no worker reaches in time leaves the queue without a call, as does what failed; the rest stays."""
    short = [await fleet.issue(f"s{number}", life_s=100) for number in range(3)]
    long = await fleet.issue("long", life_s=3000)
    for record, priority in zip((*short, long), (*Priority, Priority.BULK), strict=True):
        await fleet.tokens.revoke_token(record, priority, actor=Actor("cli:test"))
    failed = await fleet.issue("failed", life_s=100)
    await fleet.tokens.revoke_token(failed, actor=Actor("cli:test"))
    await fail(fleet, revocations, failed)
    store.clock.shift_ms = 100_000 + LAPSE_MS + 1000
    assert await revocations.next_shards() == [Shard.of(long.client_id)]
    assert [(await fleet.read(record.handle)).revocation for record in (*short, failed)] == ["lapsed"] * 4
    assert (await fleet.read(failed.handle)).sealed is None
    assert await revocations.read_backlog() == Backlog(queued=1, failed=0, scopes=(long.scope,))


async def test_a_queue_forgets_what_is_gone(fleet: Fleet, store: Store, revocations: RevocationQueue) -> None:
    """A record that ended while nobody worked leaves every queue, and is not made anew by that."""
    records = await fleet.issue_many(3)
    for record in records:
        await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    await fail(fleet, revocations, records[0])
    assert await revocations.claim_revocation(Shard.of(records[1].client_id)) is not None
    for record in records:
        await store.requests.command("DEL", Shard.of(record.client_id).token(record.handle))
    store.clock.shift_ms = LIFE_S * 1000 + LAPSE_MS + CLAIM_MS
    for _ in range(2):
        assert [claim.handle async for claim in claims_of_gone(revocations)] == []
    assert await revocations.read_backlog() == Backlog(queued=0, failed=0, scopes=())
    for record in records:
        assert await store.requests.command("EXISTS", Shard.of(record.client_id).token(record.handle)) == 0


async def claims_of_gone(revocations: RevocationQueue) -> AsyncIterator[Claim]:
    """Claim once from each shard whose turn it seems to be."""
    for shard in await revocations.next_shards():
        if claim := await revocations.claim_revocation(shard):
            yield claim


async def fail(fleet: Fleet, revocations: RevocationQueue, record: TokenRecord) -> Claim:
    """Claim a revocation and give it up."""
    claim = await revocations.claim_revocation(Shard.of(record.client_id))
    assert claim is not None
    assert claim.handle == record.handle
    assert await revocations.record_delivery(claim, "failed") is True
    assert (await fleet.read(record.handle)).revocation == "failed"
    return claim


async def test_a_failed_revocation_is_retried_from_the_start(
    fleet: Fleet, revocations: RevocationQueue, device: Device
) -> None:
    """It is nobody's turn until an operator says so; then it may be confirmed, and no late word fails it again."""
    record = await revoked_token(fleet.tokens, fleet.store, device)
    late = await fail(fleet, revocations, record)
    assert await revocations.next_shards() == []
    assert (await revocations.read_backlog()).failed == 1
    assert await revocations.resolve_revocation(record.handle, "retry", actor=Actor("cli:test")) is True
    assert await revocations.resolve_revocation(record.handle, "retry", actor=Actor("cli:test")) is False
    assert await revocations.record_delivery(late, "failed") is False
    claim = await revocations.claim_revocation(Shard.of(device.client_id))
    assert claim is not None
    assert (claim.tries, claim.attempts) == (0, 0)
    assert await revocations.record_delivery(late, "failed") is False
    assert await revocations.record_delivery(claim, "confirmed") is True
    assert (await fleet.read(record.handle)).revocation == "confirmed"


async def test_a_dropped_revocation_is_over(fleet: Fleet, revocations: RevocationQueue, device: Device) -> None:
    """What is dropped leaves the queue, and its cloud token is forgotten; only what failed can be dropped."""
    record = await revoked_token(fleet.tokens, fleet.store, device)
    assert await revocations.resolve_revocation(record.handle, "drop", actor=Actor("cli:test")) is False
    late = await fail(fleet, revocations, record)
    assert await revocations.resolve_revocation(record.handle, "drop", actor=Actor("cli:test")) is True
    assert await revocations.record_delivery(late, "confirmed") is False
    after = await fleet.read(record.handle)
    assert (after.state, after.revocation, after.sealed) == ("revoked", "dropped", None)
    assert await revocations.read_backlog() == Backlog(queued=0, failed=0, scopes=())
    for unknown in ("00-" + "x" * 22, "99-" + "x" * 22, "no handle", ""):
        assert await revocations.resolve_revocation(unknown, "retry", actor=Actor("cli:test")) is False


async def test_a_settlement_may_be_repeated(fleet: Fleet, revocations: RevocationQueue, device: Device) -> None:
    """A worker whose answer was lost says the same again and is believed; another word is not."""
    await revoked_token(fleet.tokens, fleet.store, device)
    claim = await revocations.claim_revocation(Shard.of(device.client_id))
    assert claim is not None
    assert await revocations.record_delivery(claim, "confirmed") is True
    assert await revocations.record_delivery(claim, "confirmed") is True
    assert await revocations.record_delivery(claim, "failed") is False
    assert await revocations.record_delivery(claim, "queued") is False
    assert await revocations.next_shards() == []


async def test_revoking_works_when_redis_is_full(
    fleet: Fleet, store: Store, revocations: RevocationQueue, book: JobStore, device: Device
) -> None:
    """With maxmemory reached no token is issued, yet all can be revoked by any selection, delivered and read.

    That takes a device's proof, and permits for the calls.
    """
    lease = await begin_application(fleet.tokens, want(device, life_s=LIFE_S))
    single, *below_watermark = await fleet.issue_many(4)
    registered = await fleet.add("registered")
    await store.requests.command("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await fleet.tokens.revoke_token(await fleet.read(lease.handle), actor=Actor("cli:test"))
        with pytest.raises(Unavailable):
            await fleet.tokens.request(want(device, life_s=LIFE_S), request="r2", jti="", used_until_ms=0)
        await fleet.tokens.use_assertion(device, request="r3", jti="jti", used_until_ms=store.clock.now_ms() + 60_000)
        buckets = SharedQuota(store, limits=QuotaSettings({"RevokeToken": 5}, egress_qps=300, egress_group="all"))
        question = PermitQuestion(1, 1, 1, batch_s=0.01, valid_s=VALID_S, rank=CallRank.OPERATOR)
        assert (await buckets.take_permits("RevokeToken", question)).permits == 1
        assert await fleet.tokens.revoke_token(single, Priority.OPERATOR, actor=Actor("cli:test"))
        await fleet.devices.change_device(registered, Registered(registered, KEY), CHANGED, revoke=True)
        await book.start_job("job", Selection.of_everything(), actor=Actor("operator:o"), counted=3)
        await revocations.raise_watermark(EVERYTHING, "job")
        for record in below_watermark:
            assert (await fleet.read(record.handle)).state == "revoked"
            shard = Shard.of(record.client_id)
            assert (
                await revocations.revoke_tokens(
                    shard, [record.handle], Priority.BULK, job="job", below_watermark=True, actor=Actor("cli:test")
                )
                == 1
            )
        async for claim in claims(revocations):
            assert await revocations.record_delivery(claim, "failed")
            assert await revocations.resolve_revocation(claim.handle, "retry", actor=Actor("cli:test"))
            again = await revocations.claim_revocation(Shard.of(claim.client_id))
            assert again is not None
            assert await revocations.record_delivery(again, "confirmed")
        while claimed := await book.claim_shard("job"):
            await book.extend_claim("job", claimed)
        job = await book.read_job("job")
        assert job is not None
        assert (job.queued, job.confirmed) == (3, 3)
    finally:
        await store.requests.command("CONFIG", "SET", "maxmemory", 0)
