"""What a floor takes and what it leaves: each comparison of ``swept`` and its callers is proved by one of these."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.actors import Actor
from app.model.devices import Device
from app.store.constants import EVERYTHING
from app.store.records import Priority
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.fleet import Fleet
from tests.store.test_tokens import LIFE_S, ask, handed_out, keep, queued, take_lead, want

FLOORS = pytest.mark.parametrize("role", ["sensor", EVERYTHING])


@FLOORS
async def test_a_token_begun_before_a_floor_is_never_handed_out_and_one_begun_after_it_is(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """From the moment the floor is raised the next request leads, and what it applies for stands."""
    old = await take_lead(tokens, want(device))
    await keep(tokens, store, old)
    await revocations.raise_watermark(role, "job")
    new = await take_lead(tokens, want(device), "r2")
    assert await keep(tokens, store, new, token="new") == "stored"
    assert await handed_out(tokens, want(device)) == new.handle != old.handle


@FLOORS
async def test_a_flight_begun_before_a_floor_is_not_waited_for_and_is_queued_on_arrival(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """Another leads in its place at once; its token never leaves the server, whether or not a successor came."""
    for number, successor in enumerate((False, True)):
        wanted = want(device, f"pub:plant/{number}")
        lead = await take_lead(tokens, wanted)
        await revocations.raise_watermark(role, f"job{number}")
        if successor:
            await take_lead(tokens, wanted, "r2")
        assert await keep(tokens, store, lead, token=f"late{number}") == "revoked"
        assert lead.handle in await queued(store, device)
        assert (await ask(tokens, wanted, "r3")).status == ("wait" if successor else "apply")


@FLOORS
async def test_a_swept_token_is_no_spare_and_reads_as_revoked(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """It is not handed out for want of a better one, and introspection learns of the floor before its job is done."""
    lead = await take_lead(tokens, want(device))
    await keep(tokens, store, lead)
    await revocations.raise_watermark(role, "job")
    store.clock.shift_ms = int(LIFE_S * 0.8 * 1000)
    assert (await ask(tokens, want(device), "r2")).token is None
    record = await tokens.read_token(lead.handle)
    assert record is not None
    assert record.state == "revoked"


async def test_a_role_s_floor_does_not_touch_another_role(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """Neither a token nor a flight of another role is taken."""
    token = await take_lead(tokens, want(device))
    await keep(tokens, store, token)
    application = await take_lead(tokens, want(device, "pub:plant/x"), "r2")
    await revocations.raise_watermark("line", "job")
    assert await handed_out(tokens, want(device)) == token.handle
    assert (await ask(tokens, want(device, "pub:plant/x"), "r3")).status == "wait"
    assert await keep(tokens, store, application) == "stored"


@pytest.mark.parametrize("step_ms", [-3_600_000, -1, 0])
async def test_a_floor_needs_no_clock(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, step_ms: int
) -> None:
    """Whether Redis's clock stands still or goes back, what was begun before is taken, what is begun after is not."""
    old = await take_lead(tokens, want(device))
    await keep(tokens, store, old)
    store.clock.shift_ms = step_ms
    await revocations.raise_watermark("sensor", "job")
    other = want(device, "pub:plant/other")
    new = await take_lead(tokens, other)
    store.clock.shift_ms = 2 * step_ms
    assert await keep(tokens, store, new, token="new") == "stored"
    assert await handed_out(tokens, other) == new.handle
    assert (await ask(tokens, want(device), "r2")).status == "apply"


async def test_a_job_raises_its_floor_once(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A worker that was paused in its middle does not take what was begun after the job was answered."""
    await revocations.raise_watermark("sensor", "job")
    lead = await take_lead(tokens, want(device))
    await keep(tokens, store, lead)
    await revocations.raise_watermark("sensor", "job")
    assert await handed_out(tokens, want(device)) == lead.handle
    await revocations.raise_watermark("sensor", "another job")
    assert (await ask(tokens, want(device), "r2")).status == "apply"


async def test_what_a_floor_took_is_not_held_against_the_device(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A device with all the tokens it may hold gets another before the job has come to it; the old ones are queued."""
    held = []
    for number in range(3):
        held.append(await take_lead(tokens, want(device, f"pub:plant/{number}"), f"r{number}"))
        await keep(tokens, store, held[-1], token=f"t{number}")
    assert (await ask(tokens, want(device), "r8")).status == "limited"
    await revocations.raise_watermark("sensor", "job")
    assert (await ask(tokens, want(device), "r9")).status == "apply"
    assert set(await queued(store, device)) == {lead.handle for lead in held}


async def test_a_chunk_takes_what_is_under_a_floor_once(
    fleet: Fleet, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """Sent twice it queues once; what was begun after the floor stays."""
    shard = Shard.of(device.client_id)
    old = await take_lead(fleet.tokens, want(device))
    await keep(fleet.tokens, store, old)
    await revocations.raise_watermark("sensor", "job")
    new = await take_lead(fleet.tokens, want(device, "pub:plant/new"), "r2")
    handles = [old.handle, new.handle, Handle(f"{shard.number:02d}-{'x' * 22}")]
    for taken in (1, 0):
        assert (
            await revocations.revoke_tokens(
                shard, handles, Priority.BULK, job="job", below_watermark=True, actor=Actor("cli:test")
            )
            == taken
        )
    assert await queued(store, device) == [old.handle]
    assert (await fleet.read(new.handle)).state == "applying"
    assert await revocations.revoke_tokens(shard, handles, Priority.BULK, actor=Actor("cli:test")) == 1
    assert await keep(fleet.tokens, store, new, token="new") == "revoked"


async def test_floors_are_the_only_keys_of_a_job_without_an_end(
    store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A floor must outlive every token; counts end after the longest."""
    await revocations.raise_watermark("sensor", "job")
    for shard in ALL_SHARDS:
        assert await store.requests.command("PTTL", shard.watermarks) == -1
        assert await store.requests.command("PTTL", shard.job_counts("job")) > 30 * 24 * 3600 * 1000


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(["sensor", "line"])),
        st.tuples(st.just("raise"), st.sampled_from(["sensor", "line", EVERYTHING])),
        st.tuples(st.just("arrive"), st.integers(0, 5)),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_floors_against_a_list(
    fleet: Fleet, revocations: RevocationQueue, steps: list[tuple[str, str | int]]
) -> None:
    """Whatever the order of beginnings, floors and arrivals: taken is what was begun before a floor of its own."""
    await fleet.store.requests.command("FLUSHALL")
    begun: list[tuple[str, object, bool]] = []
    for number, (step, what) in enumerate(steps):
        if step == "begin":
            begun.append((str(what), await fleet.lead(f"d{number}", role=str(what)), False))
        elif step == "raise":
            await revocations.raise_watermark(str(what), f"job{number}")
            begun = [(role, lead, taken or what in {role, EVERYTHING}) for role, lead, taken in begun]
        elif begun:
            _, lead, taken = begun.pop(int(what) % len(begun))
            outcome = await keep(fleet.tokens, fleet.store, lead, token=f"t{number}")  # type: ignore[arg-type]
            assert outcome == ("revoked" if taken else "stored")
    for _, lead, taken in begun:
        assert ((await fleet.read(lead.handle)).state == "revoked") is taken  # type: ignore[attr-defined]
