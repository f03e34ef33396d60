from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.embedded import valkey
from app.errors import Unavailable
from app.model.actors import Actor
from app.model.secrets import Secret
from app.service import audit_shipper
from app.service.audit_shipper import AuditShipper
from app.store import audit_shipping
from app.store.audit import STREAMS, AuditEntry, AuditStore, Event, EventKind, NewEntry
from app.store.audit_shipping import AuditShipping, UnshippedEntries
from app.store.store import Store
from app.tasks import end
from tests.processes import running
from tests.waiting import until

SOME: Final = (STREAMS[0], STREAMS[63], STREAMS[64], STREAMS[67])


class Killed(BaseException):
    """The process is gone: no handler of its own runs any more."""


class Steps:
    """Counts the steps of an instance, and kills it before or after one of them."""

    def __init__(self, last: float, *, after: bool = False) -> None:
        self.taken = 0
        self.last = last
        self.after = after

    async def take(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """Take a step that awaits."""
        self.taken += 1
        if self.taken == self.last and not self.after:
            raise Killed
        result = await step()
        if self.taken == self.last:
            raise Killed
        return result

    def write(self, write: Callable[[AuditEntry], None], entry: AuditEntry) -> None:
        """Write a line of the log."""
        self.taken += 1
        if self.taken == self.last and not self.after:
            raise Killed
        write(entry)
        if self.taken == self.last:
            raise Killed


class KilledShipping(AuditShipping):
    """Shipping of an instance that is killed at a step."""

    def __init__(self, store: Store, steps: Steps) -> None:
        super().__init__(store)
        self._steps = steps

    async def hold_lease(self, instance: str) -> bool:
        """Take or extend the lease."""
        return bool(await self._steps.take(lambda: super(KilledShipping, self).hold_lease(instance)))

    async def read_unshipped(self) -> list[UnshippedEntries]:
        """Read new entries."""
        read: list[UnshippedEntries] = await self._steps.take(super().read_unshipped)
        return read

    async def save_shipped(self, shipped: Sequence[UnshippedEntries]) -> None:
        """Save positions."""
        await self._steps.take(lambda: super(KilledShipping, self).save_shipped(shipped))


async def append(store: Store, streams: Sequence[str]) -> None:
    """Append an entry to each of these streams."""
    event = Event(Actor("cli:test"), EventKind.CALLED)
    await AuditStore(store).append([NewEntry(stream, event) for stream in streams])


async def ids_of(store: Store) -> set[str]:
    """Return the IDs of all entries that Redis has."""
    rows = await store.requests.pipeline([("XRANGE", stream, "-", "+") for stream in STREAMS])
    return {f"{row[0]}-{number}" for number, stream in enumerate(rows) for row in stream}


def shipped(logs: Sequence[Any]) -> Counter[str]:
    """Return how often each ID is in the log."""
    return Counter(line["id"] for line in logs if line["event"] == "audit")


async def is_all_shipped(store: Store) -> bool:
    """Tell whether every position is at the end of its stream."""
    return await AuditShipping(store).read_unshipped() == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(st.sampled_from(SOME), min_size=1, max_size=150), after=st.booleans())
async def test_an_instance_killed_at_any_step_loses_no_entry(
    store: Store, monkeypatch: pytest.MonkeyPatch, entries: list[str], *, after: bool
) -> None:
    """Whatever it had read, written or saved, another goes on: every ID is in the log, and only a batch's is twice."""
    monkeypatch.setattr(audit_shipping, "LEASE_MS", 20)
    write = audit_shipper.write_entry
    last = 0
    ended_by_itself = False
    while not ended_by_itself:
        # Every step at first, then ever fewer: a run has some hundred.
        last += 1 + last // 8
        await store.requests.command("FLUSHALL")
        await append(store, entries)
        steps = Steps(last, after=after)
        dying = AuditShipper(KilledShipping(store, steps))
        monkeypatch.setattr(audit_shipper, "write_entry", lambda entry, steps=steps: steps.write(write, entry))
        with structlog.testing.capture_logs() as logs:
            try:
                while await dying.ship_round():
                    pass
                ended_by_itself = True
            except Killed:
                pass
            monkeypatch.setattr(audit_shipper, "write_entry", write)
            heir = AuditShipper(AuditShipping(store))
            while not await is_all_shipped(store):
                await heir.ship_round()
        assert shipped(logs).keys() == await ids_of(store)
        assert max(shipped(logs).values()) <= 2


async def test_two_instances_at_rest_and_at_work_write_each_line_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ships and the other waits; when the first stops in order, the other goes on where it ended."""
    monkeypatch.setattr(audit_shipper, "LOOK_EVERY_S", 0.005)
    shippers = [AuditShipper(AuditShipping(store)) for _ in range(2)]
    generator = random.Random(11)  # noqa: S311 - to repeat a failure
    with structlog.testing.capture_logs() as logs:
        tasks = [asyncio.create_task(shipper.ship_entries()) for shipper in shippers]
        for number in range(60):
            await append(store, generator.choices(SOME, k=generator.randrange(1, 80)))
            if number == 30:
                await end(tasks[:1])
        await until(lambda: is_all_shipped(store), "everything shipped")
        await end(tasks)
    assert shipped(logs).keys() == await ids_of(store)
    assert set(shipped(logs).values()) == {1}


async def test_an_instance_without_the_lease_writes_nothing(store: Store) -> None:
    """However slow the one that has it is."""
    going_on = asyncio.Event()

    class Slow(AuditShipping):
        """Takes its time before it saves positions."""

        async def save_shipped(self, shipped: Sequence[UnshippedEntries]) -> None:
            """Wait, then save."""
            await going_on.wait()
            await super().save_shipped(shipped)

    await append(store, SOME)
    with structlog.testing.capture_logs() as logs:
        slow = asyncio.create_task(AuditShipper(Slow(store)).ship_round())

        async def is_written() -> bool:
            return len(shipped(logs)) == len(SOME)

        await until(is_written, "the lines of the slow instance")
        assert not await AuditShipper(AuditShipping(store)).ship_round()
        going_on.set()
        await slow
    assert set(shipped(logs).values()) == {1}


async def test_an_instance_that_stops_in_order_saves_what_it_wrote(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a round: the next one repeats nothing and need not wait for the lease's end."""
    await append(store, SOME * 3)
    write = audit_shipper.write_entry

    def write_and_stop(entry: AuditEntry) -> None:
        write(entry)
        task.cancel()

    monkeypatch.setattr(audit_shipper, "write_entry", write_and_stop)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(AuditShipper(AuditShipping(store)).ship_entries())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0 < len(shipped(logs)) < 3 * len(SOME)
        monkeypatch.setattr(audit_shipper, "write_entry", write)
        await AuditShipper(AuditShipping(store)).ship_round()
    assert shipped(logs) == dict.fromkeys(await ids_of(store), 1)


async def test_a_position_that_cannot_be_saved_repeats_no_lines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is read until Redis takes it again, and the log says so once."""
    monkeypatch.setattr(audit_shipper, "LOOK_EVERY_S", 0.001)
    refused = 0

    class Refusing(AuditShipping):
        """Redis refuses the first positions."""

        async def save_shipped(self, shipped: Sequence[UnshippedEntries]) -> None:
            """Refuse some, then save."""
            nonlocal refused
            refused += 1
            if refused < 20:
                raise Unavailable("full", cause="OOM")
            await super().save_shipped(shipped)

    await append(store, SOME)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(AuditShipper(Refusing(store)).ship_entries())
        await until(lambda: is_all_shipped(store), "everything shipped")
        await end([task])
    assert set(shipped(logs).values()) == {1}
    assert [line["event"] for line in logs if line["event"] != "audit" and line["log_level"] == "warning"] == [
        "audit_position_not_saved"
    ]


async def test_lost_entries_are_one_line_with_their_number(store: Store) -> None:
    """Also where nothing was shipped before."""
    await append(store, SOME[:1] * 300)
    await store.requests.command("XTRIM", SOME[0], "MAXLEN", 120)
    with structlog.testing.capture_logs() as logs:
        shipper = AuditShipper(AuditShipping(store))
        while await shipper.ship_round():
            pass
    assert [(line["stream"], line["count"]) for line in logs if line["event"] == "audit_entries_lost"] == [
        (SOME[0], 180)
    ]
    assert len(shipped(logs)) == 120


async def test_an_entry_is_one_line_with_all_it_holds(store: Store) -> None:
    """Who, what, when, under which request; figures only where there are some."""
    event = Event(Actor("operator:ann", "r1"), EventKind.DEVICE_DISABLED, "scrapped")
    await AuditStore(store).append([NewEntry(SOME[0], event, "GID_plant@@@d1")])
    await store.requests.command(
        "XADD", SOME[1], "1790000000123-4", *_fields(who="job:j", what="revoked", revoked="25", job="j")
    )
    with structlog.testing.capture_logs() as logs:
        await AuditShipper(AuditShipping(store)).ship_round()
    job, disabled = sorted(logs, key=lambda line: line["who"])
    assert job == {
        "event": "audit",
        "log_level": "info",
        "id": "1790000000123-4-63",
        "at": "2026-09-21T14:13:20.123Z",
        "who": "job:j",
        "what": "revoked",
        "client_id": "",
        "handle": "",
        "detail": "",
        "revoked": 25,
        "job": "j",
    }
    assert {name: disabled[name] for name in ("who", "what", "client_id", "detail", "request_id")} == {
        "who": "operator:ann",
        "what": "device_disabled",
        "client_id": "GID_plant@@@d1",
        "detail": "scrapped",
        "request_id": "r1",
    }


def _fields(**given: str) -> list[str]:
    fields = dict.fromkeys(("who", "what", "client_id", "handle", "detail", "request_id"), "") | given
    return [word for field in fields.items() for word in field]


async def test_shipping_survives_a_redis_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on by itself once Redis is back, and every entry that Redis kept is in the log."""
    monkeypatch.setattr(audit_shipper, "LOOK_EVERY_S", 0.01)
    generator = random.Random(5)  # noqa: S311 - to repeat a failure
    command = valkey.command(tmp_path)
    store, own = (Store(Secret(valkey.url(tmp_path))) for _ in range(2))

    async def answers() -> bool:
        try:
            await store.requests.command("PING")
        except Unavailable:
            return False
        return True

    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(AuditShipper(AuditShipping(own)).ship_entries())
        for _ in range(3):
            with running(command) as process:
                await until(answers, "Redis up")
                for _ in range(5):
                    await append(store, generator.choices(SOME, k=70))
                process.kill()
                process.wait()
        with running(command):
            await until(answers, "Redis up")
            await until(lambda: is_all_shipped(store), "everything shipped")
            kept = await ids_of(store)
            await end([task])
            await store.close()
            await own.close()
    assert len(kept) == 3 * 5 * 70
    assert shipped(logs).keys() == kept
