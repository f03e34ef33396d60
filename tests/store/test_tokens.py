from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest

from app.model.actors import Actor
from app.model.devices import Device
from app.model.grants import TokenType
from app.model.lifetimes import fresh_ms
from app.model.secrets import CloudToken, Secret
from app.service.issue import FALLBACK_MS
from app.store.constants import HORIZON_MS, LEASE_MS
from app.store.devices import Devices, Registered
from app.store.records import (
    ApplicationLease,
    ApplyRefusals,
    AssertionRefused,
    CloudTokenOfType,
    RequestResult,
    TokenRequest,
)
from app.store.redis_keys import Handle, Shard
from app.store.revocations import RevocationQueue
from app.store.script import Script
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.events import ADDED, CHANGED, REMOVED

DEVICE = Actor("device:GID_plant@@@d1", "r-1")
LIFE_S = 3600
FAR_MS = 1 << 45
"""A time when no assertion of these tests could be used any more."""
READERS: dict[str, Callable[[str], tuple[str | int, ...]]] = {
    "string": lambda key: ("GET", key),
    "hash": lambda key: ("HGETALL", key),
    "set": lambda key: ("SMEMBERS", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1),
    "stream": lambda key: ("XRANGE", key, "-", "+"),
}


def want(device: Device, scope: str = "pub:plant/d1/up/#", life_s: int = LIFE_S, role: str = "sensor") -> TokenRequest:
    """Return what the device wants, with variations."""
    return TokenRequest(
        device=device, role=role, scope=scope, life_s=life_s, fresh_ms=fresh_ms(life_s), spare_ms=FALLBACK_MS
    )


async def ask(tokens: Tokens, wanted: TokenRequest, request: str = "r1", jti: str = "") -> RequestResult:
    """Ask and expect an answer about a token."""
    return await tokens.request(wanted, request=request, jti=jti, used_until_ms=FAR_MS if jti else 0)


async def refused(use: Awaitable[object]) -> str:
    """Return why an assertion is refused."""
    with pytest.raises(AssertionRefused) as refusal:
        await use
    return refusal.value.reason


async def begin_application(tokens: Tokens, wanted: TokenRequest, request: str = "r1") -> ApplicationLease:
    """Ask and expect to apply."""
    answer = await ask(tokens, wanted, request)
    assert answer.status == "apply"
    return ApplicationLease(wanted, answer.application, request)


async def keep(
    tokens: Tokens, store: Store, lease: ApplicationLease, *, token: str = "cloud-token", whole: bool = True
) -> Literal["stored", "revoked"]:
    """Store what the cloud would have returned."""
    expires_at_ms = store.clock.now_ms() + lease.wanted.life_s * 1000
    return await tokens.store(
        lease, (CloudTokenOfType(TokenType.W, CloudToken(token)),), expires_at_ms, whole=whole, actor=DEVICE
    )


async def handed_out(tokens: Tokens, wanted: TokenRequest) -> Handle:
    """Return the handle of the token that a request gets."""
    answer = await ask(tokens, wanted, "another request")
    assert answer.status == "live"
    assert answer.token is not None
    return answer.token.handle


async def queued(store: Store, device: Device) -> list[str]:
    """Return the handles in the device's revocation queue."""
    handles: list[str] = await store.requests.command("ZRANGE", Shard.of(device.client_id).queue, 0, -1)
    return handles


async def test_one_leads_the_others_wait_and_all_get_the_one_token(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """Of many requests for one grant one applies, and all are given what it stored."""
    wanted = want(device)
    lease = await begin_application(tokens, wanted)
    assert (await ask(tokens, wanted, "r2")).status == "wait"
    assert await tokens.is_under_way(wanted, lease.handle)
    assert await keep(tokens, store, lease) == "stored"
    for request in ("r1", "r2", "r3"):
        answer = await ask(tokens, wanted, request)
        assert answer.status == "live"
        assert answer.token is not None
        assert answer.token.handle == lease.handle
        opened = tokens.open(answer.token.sealed, device.client_id, lease.handle)
        assert opened == (CloudTokenOfType(TokenType.W, CloudToken("cloud-token")),)
    assert not await tokens.is_under_way(wanted, lease.handle)


async def test_a_live_token_takes_one_command_and_asking_in_short_leaves_nothing_but_the_used_assertion(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """Only a request that finds no live token asks a second time, in full; the first asking led nobody."""
    commands = []
    send = store.requests.run_script

    async def listen(script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> object:
        before = set(await store.requests.command("KEYS", "*"))
        answer = await send(script, keys, **arguments)
        commands.append((len(keys), set(await store.requests.command("KEYS", "*")) - before))
        return answer

    store.requests.run_script = listen  # type: ignore[method-assign]
    wanted = want(device)
    await keep(tokens, store, ApplicationLease(wanted, (await ask(tokens, wanted, "r1", "j1")).application, "r1"))
    short, full = commands[:2]
    used = Shard.of(device.client_id).used_assertion(device.client_id, "j1")
    assert short == (3, {used})
    assert full[0] == 6
    commands.clear()
    assert (await ask(tokens, wanted, "r2", "j2")).status == "live"
    assert len(commands) == 1


async def test_a_resent_request_keeps_its_lease(tokens: Tokens, device: Device) -> None:
    """The same request asked twice applies under the same handle, so a lost answer loses no time."""
    wanted = want(device)
    first, second = await ask(tokens, wanted, "r1", "j1"), await ask(tokens, wanted, "r1", "j1")
    assert (first.status, second.status) == ("apply", "apply")
    assert first.application == second.application


async def test_an_assertion_is_used_once(tokens: Tokens, store: Store, device: Device) -> None:
    """A second request with one assertion gets nothing, whether the first was answered or still waits."""
    wanted = want(device)
    lease = ApplicationLease(wanted, (await ask(tokens, wanted, "r1", "j1")).application, "r1")
    assert await refused(tokens.request(wanted, request="r2", jti="j1", used_until_ms=FAR_MS)) == "used"
    await keep(tokens, store, lease)
    assert await refused(tokens.request(wanted, request="r2", jti="j1", used_until_ms=FAR_MS)) == "used"
    assert (await ask(tokens, wanted, "r1", "j1")).status == "live"
    assert await refused(tokens.use_assertion(device, request="r3", jti="j1", used_until_ms=FAR_MS)) == "used"
    await tokens.use_assertion(device, request="r3", jti="j2", used_until_ms=FAR_MS)


async def test_a_stale_epoch_touches_nothing(tokens: Tokens, store: Store, devices: Devices, device: Device) -> None:
    """A request verified under an old record claims no assertion and begins no application."""
    changed, _ = await devices.change_device(device, Registered(device, Secret("k" * 32)), CHANGED, revoke=False)
    assert await refused(tokens.request(want(device), request="r1", jti="j1", used_until_ms=FAR_MS)) == "stale"
    assert await refused(tokens.use_assertion(device, request="r1", jti="j1", used_until_ms=FAR_MS)) == "stale"
    assert (await ask(tokens, want(changed), "r2", "j1")).status == "apply"
    assert int(changed.epoch) > int(device.epoch)


async def test_a_removed_device_is_stale_and_never_gets_its_epoch_back(
    tokens: Tokens, devices: Devices, device: Device
) -> None:
    """Removing and adding again gives a higher epoch, so nothing that began before is handed out after."""
    lease = await begin_application(tokens, want(device))
    await devices.remove_device(device, REMOVED)
    assert await refused(tokens.request(want(device), request="r2", jti="", used_until_ms=0)) == "stale"
    again = await devices.add_device(replace(device, epoch=""), Secret("k" * 32), ADDED)
    assert int(again.epoch) > int(device.epoch)
    assert (await ask(tokens, want(again), "r3")).application != lease.handle


async def test_what_was_applied_for_before_a_revoke_is_queued_and_never_handed_out(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """An application carries the tombstone of its device's revoke: its token goes to the cloud's revocation queue."""
    lease = await begin_application(tokens, want(device))
    changed, revoked = await devices.change_device(device, Registered(device, Secret("k" * 32)), CHANGED, revoke=True)
    assert revoked == 1
    successor = await begin_application(tokens, want(changed), "r2")
    assert await keep(tokens, store, lease, token="late") == "revoked"
    assert await queued(store, device) == [lease.handle]
    assert (await ask(tokens, want(changed), "r3")).status == "wait"
    assert await keep(tokens, store, successor, token="new") == "stored"
    assert await handed_out(tokens, want(changed)) == successor.handle


async def test_a_change_without_revoke_still_bars_what_began_before(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """The epoch alone is enough: a token applied for under an older one is not handed out."""
    lease = await begin_application(tokens, want(device))
    changed, _ = await devices.change_device(
        device, Registered(replace(device, role="other"), Secret("k" * 32)), CHANGED, revoke=False
    )
    assert await keep(tokens, store, lease) == "revoked"
    assert (await ask(tokens, want(changed), "r2")).status == "apply"


async def test_a_revoked_token_is_never_handed_out_again(tokens: Tokens, store: Store, device: Device) -> None:
    """After a revoke of its handle the next request applies anew, and the old token is queued once."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    record = await tokens.read_token(lease.handle)
    assert record is not None
    assert await tokens.revoke_token(record, actor=Actor("cli:test")) is True
    assert await tokens.revoke_token(record, actor=Actor("cli:test")) is False
    assert await queued(store, device) == [lease.handle]
    assert (await ask(tokens, want(device), "r2")).status == "apply"


async def test_a_handle_revoked_while_applied_for_is_queued_when_it_arrives(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """A tombstone on a single application lets the next request apply at once and bars the first one's token."""
    lease = await begin_application(tokens, want(device))
    record = await tokens.read_token(lease.handle)
    assert record is not None
    assert record.state == "applying"
    assert await tokens.revoke_token(record, actor=Actor("cli:test")) is True
    assert (await ask(tokens, want(device), "r2")).status == "apply"
    assert await keep(tokens, store, lease) == "revoked"
    assert await keep(tokens, store, lease) == "revoked"
    assert await queued(store, device) == [lease.handle]


async def test_revoking_a_device_takes_tokens_that_a_renewal_left_behind(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """A renewal replaces the pointer, never the record: both tokens are revoked."""
    old = await begin_application(tokens, want(device))
    await keep(tokens, store, old, token="old")
    store.clock.shift_ms = int(LIFE_S * 0.95 * 1000)
    new = await begin_application(tokens, want(device), "r2")
    await keep(tokens, store, new, token="new")
    _, revoked = await devices.change_device(device, Registered(device, Secret("k" * 32)), CHANGED, revoke=True)
    assert revoked == 2
    assert set(await queued(store, device)) == {old.handle, new.handle}


async def test_storing_may_be_repeated(tokens: Tokens, store: Store, device: Device) -> None:
    """A resend that finds its own record gets the same answer and changes nothing."""
    lease = await begin_application(tokens, want(device))
    assert await keep(tokens, store, lease) == "stored"
    assert await keep(tokens, store, lease) == "stored"
    assert await queued(store, device) == []


async def test_an_applicant_that_lost_its_lease_does_not_overtake_its_successor(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """When two applicants come back, the successor's token is handed out and the late one is queued."""
    late = await begin_application(tokens, want(device))
    await store.requests.command("PEXPIRE", Shard.of(device.client_id).application(late.wanted.key), 1)
    while await tokens.is_under_way(late.wanted, late.handle):
        pass
    successor = await begin_application(tokens, want(device), "r2")
    assert not await tokens.extend(late)
    assert await keep(tokens, store, successor, token="successor") == "stored"
    assert await keep(tokens, store, late, token="late") == "revoked"
    assert await handed_out(tokens, want(device)) == successor.handle
    assert await queued(store, device) == [late.handle]


async def test_a_lapsed_lead_without_a_successor_still_counts(tokens: Tokens, store: Store, device: Device) -> None:
    """A Redis that was away for longer than the lease costs no second ApplyToken."""
    lease = await begin_application(tokens, want(device))
    await store.requests.command("DEL", Shard.of(device.client_id).application(lease.wanted.key))
    assert await keep(tokens, store, lease) == "stored"


async def test_an_applicant_whose_record_is_gone_hands_nothing_out(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """An applicant paused beyond the horizon finds no record: what it got is queued under its handle."""
    lease = await begin_application(tokens, want(device))
    shard = Shard.of(device.client_id)
    await store.requests.command("DEL", shard.application(lease.wanted.key), shard.token(lease.handle))
    assert await keep(tokens, store, lease) == "revoked"
    assert await queued(store, device) == [lease.handle]
    assert await store.requests.command("PTTL", shard.token(lease.handle)) > 0


async def test_half_a_token_is_only_ever_revoked(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """When one half could not be had, the other goes to the queue and the failure leaves its mark."""
    lease = await begin_application(tokens, want(device))
    await tokens.fail(lease, mark_ms=5000, counts=True, why="permission")
    assert await keep(tokens, store, lease, token="half", whole=False) == "revoked"
    answer = await ask(tokens, want(device), "r2")
    assert (answer.status, answer.token, answer.failure) == ("failed", None, "permission")
    assert 0 < answer.wait_ms <= 5000
    claim = await revocations.claim_revocation(Shard.of(device.client_id))
    assert claim is not None
    assert tokens.open(claim.sealed, device.client_id, claim.handle)[0].token == CloudToken("half")


async def test_a_given_up_lead_passes_on_at_once(tokens: Tokens, device: Device) -> None:
    """An applicant that stops in good order leaves no mark: the next request applies."""
    lease = await begin_application(tokens, want(device))
    await tokens.fail(lease, mark_ms=0, counts=False)
    assert (await ask(tokens, want(device), "r2")).status == "apply"
    assert await tokens.read_token(lease.handle) is None


async def test_a_token_stops_being_fresh_in_its_last_quarter(tokens: Tokens, store: Store, device: Device) -> None:
    """It is handed out with more than max(life ÷ 4, min(360 s, life ÷ 2)) left, and is a spare after that."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    store.clock.shift_ms = int(LIFE_S * 0.74 * 1000)
    assert (await ask(tokens, want(device), "r2")).status == "live"
    store.clock.shift_ms = int(LIFE_S * 0.76 * 1000)
    await begin_application(tokens, want(device), "r3")
    spare = await ask(tokens, want(device), "r4")
    assert spare.status == "wait"
    assert spare.token is not None
    assert spare.token.handle == lease.handle
    store.clock.shift_ms = (LIFE_S - 25) * 1000
    assert (await ask(tokens, want(device), "r4")).token is None


async def test_renewals_may_be_refused_alone(tokens: Tokens, store: Store, device: Device) -> None:
    """Whether a request that would apply has a spare token decides which reason refuses it."""

    async def ask_refused(request: str, refuse_as: ApplyRefusals) -> tuple[str, str]:
        answer = await tokens.request(want(device), request=request, jti="", used_until_ms=0, refuse_as=refuse_as)
        return answer.status, answer.failure

    assert await ask_refused("r0", ApplyRefusals("full", "too late")) == ("failed", "full")
    assert await ask_refused("r1", ApplyRefusals("", "too late")) == ("apply", "")
    await keep(tokens, store, await begin_application(tokens, want(device)))
    assert await ask_refused("r2", ApplyRefusals("", "too late")) == ("live", "")
    store.clock.shift_ms = int(LIFE_S * 0.76 * 1000)
    assert await ask_refused("r3", ApplyRefusals("", "too late")) == ("failed", "too late")
    assert await ask_refused("r3", ApplyRefusals("full", "")) == ("apply", "")


async def test_another_life_is_another_token(tokens: Tokens, store: Store, device: Device) -> None:
    """A shorter life asked for is never answered with a longer one."""
    await keep(tokens, store, await begin_application(tokens, want(device, life_s=3600)))
    assert (await ask(tokens, want(device, life_s=600), "r2")).status == "apply"


async def test_a_device_holds_no_more_than_its_share_of_live_tokens(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """Past the limit the answer says when the first of its tokens ends; after that there is room again."""
    for number in range(3):
        lease = await begin_application(tokens, want(device, scope=f"pub:plant/{number}"), f"r{number}")
        await keep(tokens, store, lease, token=f"t{number}")
    answer = await ask(tokens, want(device, scope="pub:plant/9"), "r9")
    assert answer.status == "limited"
    assert 0 < answer.wait_ms <= LIFE_S * 1000
    store.clock.shift_ms = LIFE_S * 1000 + 1
    assert (await ask(tokens, want(device, scope="pub:plant/9"), "r9")).status == "apply"


async def test_a_device_applies_no_more_than_its_share_in_an_hour(tokens: Tokens, store: Store, device: Device) -> None:
    """Revoking and asking anew does not get around the hourly limit."""
    for number in range(5):
        lease = await begin_application(tokens, want(device), f"r{number}")
        await keep(tokens, store, lease, token=f"t{number}")
        record = await tokens.read_token(lease.handle)
        assert record is not None
        await tokens.revoke_token(record, actor=Actor("cli:test"))
    assert (await ask(tokens, want(device), "r9")).status == "limited"


async def test_a_token_in_hand_is_found_and_two_side_by_side_are_not(
    tokens: Tokens, store: Store, device: Device
) -> None:
    """A cloud token leads to its handle; tokens of two handles joined into one password belong to no handle."""
    first = await begin_application(tokens, want(device))
    await keep(tokens, store, first, token="one")
    second = await begin_application(tokens, want(device, life_s=600), "r2")
    await keep(tokens, store, second, token="two")
    assert await tokens.find_handle([CloudToken("one")]) == first.handle
    assert await tokens.find_handle([CloudToken("one"), CloudToken("two")]) is None
    assert await tokens.find_handle([CloudToken("unknown")]) is None
    assert await tokens.read_token(Handle("99-" + "x" * 22)) is None
    assert await tokens.read_token("no handle") is None


async def test_everything_but_registry_and_queue_ends_by_itself(tokens: Tokens, store: Store, device: Device) -> None:
    """No key is left without an end, and no record ends before its token does."""
    lease = await begin_application(tokens, want(device), "r1")
    shard = Shard.of(device.client_id)
    assert await store.requests.command("PTTL", shard.application(lease.wanted.key)) in range(1, LEASE_MS + 1)
    assert await store.requests.command("PTTL", shard.token(lease.handle)) in range(1, HORIZON_MS + 1)
    assert await tokens.extend(lease)
    await keep(tokens, store, lease)
    await ask(tokens, want(device), "r2", "j2")
    endless = {shard.device(device.client_id), shard.devices, shard.audit}
    for key in await store.requests.command("KEYS", "{s*"):
        lasts_ms = await store.requests.command("PTTL", key)
        assert (lasts_ms == -1) is (key in endless), key
    assert await store.requests.command("PTTL", shard.token(lease.handle)) > LIFE_S * 1000
    assert await store.requests.command("PTTL", shard.device_index(device.client_id)) > (LIFE_S - 10) * 1000


async def test_no_secret_lies_in_redis_in_the_clear(
    tokens: Tokens, store: Store, devices: Devices, device: Device
) -> None:
    """Neither a device's key nor a cloud token can be read from anything in Redis."""
    await keep(tokens, store, await begin_application(tokens, want(device)), token="very-secret-cloud-token")
    for key in await store.requests.command("KEYS", "*"):
        kind = await store.requests.command("TYPE", key)
        content = await store.requests.command(*READERS[kind](key))
        assert "very-secret" not in f"{key} {content}"
        assert "k" * 32 not in str(content)
