"""What a watermark takes and what it leaves: a test here proves each comparison with it."""

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
from tests.store.test_tokens import LIFE_S, ask, begin_application, handed_out, keep, queued, want

WATERMARKS = pytest.mark.parametrize("role", ["sensor", EVERYTHING])


@WATERMARKS
async def test_a_token_from_before_a_watermark_is_never_handed_out_and_one_from_after_it_is(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """From the moment the watermark is raised the next request applies, and what it applies for stands."""
    old = await begin_application(tokens, want(device))
    await keep(tokens, store, old)
    await revocations.raise_watermark(role, "job")
    new = await begin_application(tokens, want(device), "r2")
    assert await keep(tokens, store, new, token="new") == "stored"
    assert await handed_out(tokens, want(device)) == new.handle != old.handle


@WATERMARKS
async def test_an_application_from_before_a_watermark_is_not_waited_for_and_is_queued_on_arrival(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """Another applies in its place at once; its token never leaves the server, whether or not a successor came."""
    for number, successor in enumerate((False, True)):
        wanted = want(device, f"pub:plant/{number}")
        lease = await begin_application(tokens, wanted)
        await revocations.raise_watermark(role, f"job{number}")
        if successor:
            await begin_application(tokens, wanted, "r2")
        assert await keep(tokens, store, lease, token=f"late{number}") == "revoked"
        assert lease.handle in await queued(store, device)
        assert (await ask(tokens, wanted, "r3")).status == ("wait" if successor else "apply")


@WATERMARKS
async def test_a_swept_token_is_no_spare_and_reads_as_revoked(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, role: str
) -> None:
    """It is not handed out for want of a better one, and introspection knows the watermark before its job is done."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    await revocations.raise_watermark(role, "job")
    store.clock.shift_ms = int(LIFE_S * 0.8 * 1000)
    assert (await ask(tokens, want(device), "r2")).token is None
    record = await tokens.read_token(lease.handle)
    assert record is not None
    assert record.state == "revoked"


async def test_a_role_s_watermark_does_not_touch_another_role(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """Neither a token nor an application of another role is taken."""
    token = await begin_application(tokens, want(device))
    await keep(tokens, store, token)
    application = await begin_application(tokens, want(device, "pub:plant/x"), "r2")
    await revocations.raise_watermark("line", "job")
    assert await handed_out(tokens, want(device)) == token.handle
    assert (await ask(tokens, want(device, "pub:plant/x"), "r3")).status == "wait"
    assert await keep(tokens, store, application) == "stored"


@pytest.mark.parametrize("step_ms", [-3_600_000, -1, 0])
async def test_a_watermark_needs_no_clock(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, step_ms: int
) -> None:
    """Whether Redis's clock stands still or goes back, what began before is taken, what began after is not."""
    old = await begin_application(tokens, want(device))
    await keep(tokens, store, old)
    store.clock.shift_ms = step_ms
    await revocations.raise_watermark("sensor", "job")
    other = want(device, "pub:plant/other")
    new = await begin_application(tokens, other)
    store.clock.shift_ms = 2 * step_ms
    assert await keep(tokens, store, new, token="new") == "stored"
    assert await handed_out(tokens, other) == new.handle
    assert (await ask(tokens, want(device), "r2")).status == "apply"


async def test_a_job_raises_its_watermark_once(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A worker that was paused in its middle does not take what began after the job was answered."""
    await revocations.raise_watermark("sensor", "job")
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    await revocations.raise_watermark("sensor", "job")
    assert await handed_out(tokens, want(device)) == lease.handle
    await revocations.raise_watermark("sensor", "another job")
    assert (await ask(tokens, want(device), "r2")).status == "apply"


async def test_what_a_watermark_took_is_not_held_against_the_device(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A device with all the tokens it may hold gets another before the job has come to it; the old ones are queued."""
    held = []
    for number in range(3):
        held.append(await begin_application(tokens, want(device, f"pub:plant/{number}"), f"r{number}"))
        await keep(tokens, store, held[-1], token=f"t{number}")
    assert (await ask(tokens, want(device), "r8")).status == "limited"
    await revocations.raise_watermark("sensor", "job")
    assert (await ask(tokens, want(device), "r9")).status == "apply"
    assert set(await queued(store, device)) == {lease.handle for lease in held}


async def test_a_chunk_takes_what_is_under_a_watermark_once(
    fleet: Fleet, store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """Sent twice it queues once; what began after the watermark stays."""
    shard = Shard.of(device.client_id)
    old = await begin_application(fleet.tokens, want(device))
    await keep(fleet.tokens, store, old)
    await revocations.raise_watermark("sensor", "job")
    new = await begin_application(fleet.tokens, want(device, "pub:plant/new"), "r2")
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


async def test_watermarks_are_the_only_keys_of_a_job_without_an_end(
    store: Store, revocations: RevocationQueue, device: Device
) -> None:
    """A watermark must outlive every token; counts end after the longest."""
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
async def test_watermarks_against_a_list(
    fleet: Fleet, revocations: RevocationQueue, steps: list[tuple[str, str | int]]
) -> None:
    """Whatever the order of beginnings, watermarks and arrivals: what began before a watermark of its own is taken."""
    await fleet.store.requests.command("FLUSHALL")
    applied: list[tuple[str, object, bool]] = []
    for number, (step, what) in enumerate(steps):
        if step == "begin":
            applied.append((str(what), await fleet.begin_application(f"d{number}", role=str(what)), False))
        elif step == "raise":
            await revocations.raise_watermark(str(what), f"job{number}")
            applied = [(role, lease, taken or what in {role, EVERYTHING}) for role, lease, taken in applied]
        elif applied:
            _, lease, taken = applied.pop(int(what) % len(applied))
            outcome = await keep(fleet.tokens, fleet.store, lease, token=f"t{number}")  # type: ignore[arg-type]
            assert outcome == ("revoked" if taken else "stored")
    for _, lease, taken in applied:
        assert ((await fleet.read(lease.handle)).state == "revoked") is taken  # type: ignore[attr-defined]
