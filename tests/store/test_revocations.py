from __future__ import annotations

import pytest

from app.errors import Unavailable
from app.model.devices import Device
from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.store.connection import Store
from app.store.keys import Shard
from app.store.records import CloudTokenOfType, TokenRecord
from app.store.revocations import CLAIM_MS, LAPSE_MS, Revocations
from app.store.tokens import Tokens
from tests.store.test_tokens import take_lead, want

LIFE_S = 3600


async def revoked_token(tokens: Tokens, store: Store, device: Device) -> TokenRecord:
    """Return the record of a token that was issued and revoked."""
    lead = await take_lead(tokens, want(device, life_s=LIFE_S))
    await tokens.store(
        lead, (CloudTokenOfType(TokenType.W, CloudToken("t")),), store.clock.now_ms() + LIFE_S * 1000, whole=True
    )
    record = await tokens.read(lead.handle)
    assert record is not None
    await tokens.revoke(record, by="cli:test")
    return record


async def test_a_revocation_is_claimed_by_one_worker(
    tokens: Tokens, store: Store, revocations: Revocations, device: Device
) -> None:
    """What one worker claimed no other gets, until the claim lapses."""
    record = await revoked_token(tokens, store, device)
    [shard] = await revocations.due_shards()
    claim = await revocations.claim(shard)
    assert claim is not None
    assert claim.handle == record.handle
    assert await revocations.claim(shard) is None
    store.clock.shift_ms = CLAIM_MS + 1
    again = await revocations.claim(shard)
    assert again is not None
    assert again.handle == record.handle


async def test_a_worker_paused_past_its_claim_settles_nothing(
    tokens: Tokens, store: Store, revocations: Revocations, device: Device
) -> None:
    """The claim's number fences it off: the later worker's word stands."""
    await revoked_token(tokens, store, device)
    shard = Shard.of(device.client_id)
    late = await revocations.claim(shard)
    store.clock.shift_ms = CLAIM_MS + 1
    current = await revocations.claim(shard)
    assert late is not None
    assert current is not None
    assert await revocations.settle(late, "confirmed") is False
    assert await revocations.settle(current, "queued", again_in_ms=5000) is True
    store.clock.shift_ms += 4000
    assert await revocations.claim(shard) is None
    store.clock.shift_ms += 2000
    last = await revocations.claim(shard)
    assert last is not None
    assert last.attempts == 1


async def test_a_confirmed_revocation_leaves_the_queue_and_its_token_is_forgotten(
    tokens: Tokens, store: Store, revocations: Revocations, device: Device
) -> None:
    """What the cloud confirmed is final, and the worthless cloud token is not kept."""
    record = await revoked_token(tokens, store, device)
    claim = await revocations.claim(Shard.of(device.client_id))
    assert claim is not None
    assert await revocations.settle(claim, "confirmed") is True
    assert await revocations.due_shards() == []
    after = await tokens.read(record.handle)
    assert after is not None
    assert (after.revocation, after.sealed, after.state) == ("confirmed", None, "revoked")


async def test_a_token_that_outlived_itself_needs_no_revoking(
    tokens: Tokens, store: Store, revocations: Revocations, device: Device
) -> None:
    """Some time after the cloud's expiry a revocation lapses without a call."""
    record = await revoked_token(tokens, store, device)
    store.clock.shift_ms = LIFE_S * 1000 + LAPSE_MS + 1000
    assert await revocations.claim(Shard.of(device.client_id)) is None
    after = await tokens.read(record.handle)
    assert after is not None
    assert after.revocation == "lapsed"
    assert await revocations.due_shards() == []


async def test_revoking_works_when_redis_is_full(
    tokens: Tokens, store: Store, revocations: Revocations, device: Device
) -> None:
    """With maxmemory reached no token is issued, yet one can still be revoked and settled."""
    lead = await take_lead(tokens, want(device, life_s=LIFE_S))
    await store.command("CONFIG", "SET", "maxmemory", 1)
    try:
        record = await tokens.read(lead.handle)
        assert record is not None
        assert await tokens.revoke(record, by="cli:test")
        with pytest.raises(Unavailable):
            await tokens.request(lead.wanted, "r2", "", 0)
    finally:
        await store.command("CONFIG", "SET", "maxmemory", 0)
