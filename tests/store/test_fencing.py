"""Each comparison in the scripts stops one overtaking; each test here falls if that comparison is taken out."""

from __future__ import annotations

from dataclasses import replace

from app.model.actors import Actor
from app.model.devices import Device
from app.model.secrets import Secret
from app.store.constants import HORIZON_MS
from app.store.devices import Devices, Registered
from app.store.redis_keys import Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.events import CHANGED
from tests.store.test_tokens import LIFE_S, ask, begin_application, handed_out, keep, queued, refused, want

KEY = Secret("k" * 32)


async def index(store: Store, device: Device) -> list[str]:
    """Return the handles that a revoke of the device would take."""
    handles: list[str] = await store.requests.command(
        "ZRANGE", Shard.of(device.client_id).device_index(device.client_id), 0, -1
    )
    return handles


async def drop_application(store: Store, device: Device) -> None:
    """Let the lease of the device's one application lapse."""
    await store.requests.command("DEL", Shard.of(device.client_id).application(want(device).key))


async def test_a_tombstone_counts_though_nobody_leads_in_its_place(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """A handle revoked while it is applied for is queued when its token arrives, even if no other request came."""
    lease = await begin_application(tokens, want(device))
    record = await tokens.read_token(lease.handle)
    assert record is not None
    await tokens.revoke_token(record, actor=Actor("cli:test"))
    assert await keep(tokens, store, lease) == "revoked"
    assert await queued(store, device) == [lease.handle]


async def test_what_is_not_handed_out_leaves_the_index(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """Neither an overtaken store nor a failed application counts as something the device holds."""
    lease = await begin_application(tokens, want(device))
    changed, _ = await devices.change_device(
        device, Registered(replace(device, role="other"), KEY), CHANGED, revoke=False
    )
    await keep(tokens, store, lease)
    assert await index(store, device) == []
    failed = await begin_application(tokens, want(changed), "r2")
    await tokens.fail(failed, mark_ms=0, counts=True)
    assert await index(store, device) == []


async def test_nothing_of_an_older_epoch_is_handed_out_or_waited_for(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """A live token and an application of an older epoch are passed over: the next request applies."""
    await keep(tokens, store, await begin_application(tokens, want(device)))
    second, _ = await devices.change_device(
        device, Registered(replace(device, role="second"), KEY), CHANGED, revoke=False
    )
    await begin_application(tokens, want(second), "r2")
    third, _ = await devices.change_device(
        second, Registered(replace(second, role="third"), KEY), CHANGED, revoke=False
    )
    assert (await ask(tokens, want(third), "r3")).status == "apply"


async def test_a_late_store_does_not_take_the_lead_from_a_successor(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """While a successor applies, the late applicant's token is queued and the application goes on."""
    late = await begin_application(tokens, want(device))
    await drop_application(store, device)
    await begin_application(tokens, want(device), "r2")
    assert await keep(tokens, store, late) == "revoked"
    assert (await ask(tokens, want(device), "r3")).status == "wait"


async def test_a_late_failure_ends_nothing_but_itself(tokens: Tokens, store: Store, device: Device) -> None:
    """It neither removes a live token nor ends a successor's application, even one of the same request."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    await tokens.fail(lease, mark_ms=3000, counts=True)
    assert await handed_out(tokens, want(device)) == lease.handle
    other = want(device, "pub:plant/d1/up/x")
    first = await begin_application(tokens, other)
    await store.requests.command("DEL", Shard.of(device.client_id).application(other.key))
    second = await begin_application(tokens, other)
    assert first.handle != second.handle
    await tokens.fail(first, mark_ms=3000, counts=True)
    assert await tokens.extend(second)


async def test_a_late_message_of_an_applicant_does_not_shorten_a_queued_record(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """A revocation waits for the cloud for as long as its token lives, whatever its old applicant still says."""
    first = await begin_application(tokens, want(device))
    record = await tokens.read_token(first.handle)
    assert record is not None
    await tokens.revoke_token(record, actor=Actor("cli:test"))
    await begin_application(tokens, want(device))
    assert await keep(tokens, store, first) == "revoked"
    assert not await tokens.extend(first)
    assert await store.requests.command("PTTL", Shard.of(device.client_id).token(first.handle)) > HORIZON_MS


async def test_a_resent_store_does_not_queue_again(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """What the cloud confirmed stays confirmed, and its token stays forgotten."""
    lease = await begin_application(tokens, want(device))
    record = await tokens.read_token(lease.handle)
    assert record is not None
    await tokens.revoke_token(record, actor=Actor("cli:test"))
    await keep(tokens, store, lease)
    claim = await revocations.claim_revocation(Shard.of(device.client_id))
    assert claim is not None
    await revocations.record_delivery(claim, "confirmed")
    assert await keep(tokens, store, lease) == "revoked"
    after = await tokens.read_token(lease.handle)
    assert after is not None
    assert (await queued(store, device), after.revocation, after.sealed) == ([], "confirmed", None)


async def test_an_outage_does_not_use_up_the_devices_share(tokens: Tokens, device: Device) -> None:
    """Failures that pass by themselves are given back; those that only a person can mend are not."""
    for number in range(8):
        lease = await begin_application(tokens, want(device), f"r{number}")
        await tokens.fail(lease, mark_ms=0, counts=False)
    for number in range(5):
        lease = await begin_application(tokens, want(device), f"s{number}")
        await tokens.fail(lease, mark_ms=0, counts=True)
    assert (await ask(tokens, want(device), "last")).status == "limited"


async def test_an_applicant_gets_the_spare_as_its_waiters_do(tokens: Tokens, store: Store, device: Device) -> None:
    """Who applies anew can be given the token that is no longer fresh, if the cloud does not answer."""
    old = await begin_application(tokens, want(device))
    await keep(tokens, store, old)
    store.clock.shift_ms = int(LIFE_S * 0.8 * 1000)
    for _ in range(2):
        answer = await ask(tokens, want(device), "r2")
        assert answer.status == "apply"
        assert answer.token is not None
        assert answer.token.handle == old.handle
        assert answer.application != old.handle


async def test_an_assertion_expires_by_redis_clock(tokens: Tokens, store: Store, device: Device) -> None:
    """An instance whose clock stood still cannot let an old assertion in."""
    past_ms = store.clock.now_ms() - 1_000
    assert await refused(tokens.request(want(device), request="r1", jti="j1", used_until_ms=past_ms)) == "expired"
    assert await refused(tokens.use_assertion(device, request="r1", jti="j1", used_until_ms=past_ms)) == "expired"
