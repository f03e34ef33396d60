from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.actors import Actor
from app.model.devices import Device
from app.model.selections import Selection
from app.store import audit as audit_log
from app.store.audit import STREAMS, AuditCursor, AuditEntry, AuditStore, Event, EventKind, NewEntry
from app.store.devices import Devices
from app.store.jobs import JobStore
from app.store.records import Priority
from app.store.redis_keys import STRANGERS_AUDIT, Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.test_tokens import begin_application, keep, want

END = AuditCursor(10**15 - 1, 0, 0)
ALL = range(len(STREAMS))
SOME = [0, 1, 63, 64, len(STREAMS) - 1]


@pytest.fixture
def audit(store: Store) -> AuditStore:
    """The trail in that store."""
    return AuditStore(store)


async def everything(audit: AuditStore, limit: int = 1000, streams: range | list[int] = ALL) -> list[AuditEntry]:
    """Read all pages."""
    lines: list[AuditEntry] = []
    begin: AuditCursor | None = END
    while begin is not None:
        page = await audit.read_page(streams, lambda line: True, begin, since_ms=0, limit=limit)
        assert len(page.entries) <= limit
        lines += page.entries
        begin = page.cursor
    return lines


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.sampled_from(SOME)), max_size=60, unique=True),
    st.integers(1, 7),
    st.integers(5, 40),
    st.integers(1, 3),
)
async def test_pages_put_together_are_everything_in_order(
    store: Store, written: list[tuple[int, int, int]], limit: int, round_: int, rounds: int
) -> None:
    """However small the page and the work behind it: nothing twice, nothing left out, the newest first over all."""
    await store.requests.command("FLUSHALL")
    for at_ms, sequence, stream in sorted(written):
        fields = ("who", "w", "what", "x", "client_id", "", "handle", "")
        detail = str(AuditCursor(at_ms, sequence, stream))
        await store.requests.command("XADD", STREAMS[stream], f"{at_ms}-{sequence}", *fields, "detail", detail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_log, "READ_AT_ONCE", round_)
        patch.setattr(audit_log, "_ENTRIES_A_PAGE", round_ * rounds)
        found = await everything(AuditStore(store), limit, SOME)
    assert [line.detail for line in found] == [str(AuditCursor(*place)) for place in sorted(written, reverse=True)]


async def test_the_life_of_a_token_is_told(
    tokens: Tokens, store: Store, devices: Devices, device: Device, audit: AuditStore
) -> None:
    """Each change writes its line as it happens; a revoke that changes nothing writes none."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    record = await tokens.read_token(lease.handle)
    assert record is not None
    assert [await tokens.revoke_token(record, actor=Actor("key:billing")) for _ in range(3)] == [True, False, False]
    told = [(line.who, line.what, line.client_id, line.handle) for line in await everything(audit)]
    assert told == [
        ("key:billing", "revoked", device.client_id, lease.handle),
        (f"device:{device.client_id}", "granted", device.client_id, lease.handle),
        ("cli:test", "device_added", device.client_id, ""),
    ]


async def test_a_device_that_is_removed_takes_its_tokens_with_it_and_all_is_told(
    tokens: Tokens, store: Store, devices: Devices, device: Device, audit: AuditStore
) -> None:
    """The device's line, and one for each token or application it held, all of whoever did it."""
    live, flying = (
        await begin_application(tokens, want(device)),
        await begin_application(tokens, want(device, "pub:plant/d1/up/x"), "r2"),
    )
    await keep(tokens, store, live)
    await devices.remove_device(device, Event(Actor("cli:ann"), EventKind.DEVICE_REMOVED, "scrapped"))
    [removed, *revoked] = (await everything(audit))[:3]
    assert (removed.who, removed.what, removed.detail) == ("cli:ann", "device_removed", "scrapped")
    assert {(line.who, line.what, line.handle) for line in revoked} == {
        ("cli:ann", "revoked", live.handle),
        ("cli:ann", "revoked", flying.handle),
    }
    await keep(tokens, store, flying)
    assert len(await everything(audit)) == 5  # the tombstone told it already


async def test_the_end_of_a_revocation_is_told(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, audit: AuditStore
) -> None:
    """Failed, taken up again, failed again and dropped: by the cloud, and by whoever decided."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    record = await tokens.read_token(lease.handle)
    assert record is not None
    await tokens.revoke_token(record, actor=Actor("cli:ann"))
    for verb in ("retry", "drop"):
        claim = await revocations.claim_revocation(Shard.of(device.client_id))
        assert claim is not None
        for _ in range(2):
            await revocations.record_delivery(claim, "failed")
        for _ in range(2):
            await revocations.resolve_revocation(
                lease.handle, "retry" if verb == "retry" else "drop", actor=Actor("cli:bob")
            )
    told = [(line.who, line.what) for line in await everything(audit)][:5]
    assert told == [
        ("cli:bob", "dropped"),
        ("cloud", "failed"),
        ("cli:bob", "retried"),
        ("cloud", "failed"),
        ("cli:ann", "revoked"),
    ]


async def test_a_job_is_told_and_what_it_takes_names_it(
    tokens: Tokens, store: Store, revocations: RevocationQueue, device: Device, audit: AuditStore
) -> None:
    """Who began it, once however often that is sent; each token it took; its end."""
    lease = await begin_application(tokens, want(device))
    await keep(tokens, store, lease)
    book = JobStore(store)
    for _ in range(2):
        await book.start_job("j1", Selection.of_role("sensor"), actor=Actor("operator:ann"), counted=1)
    while shard := await book.claim_shard("j1"):
        for _ in range(2):
            if shard == Shard.of(device.client_id):
                await revocations.revoke_tokens(shard, [lease.handle], Priority.BULK, actor=Actor("job:j1"), job="j1")
        await book.finish_shard("j1", shard)
    told = [(line.who, line.what) for line in await everything(audit)]
    assert told[:2] == [("server", "job_done"), ("job:j1", "revoked")]
    [started] = [line for line in await everything(audit) if line.what == "job_started"]
    assert (started.who, started.detail) == ("operator:ann", "j1: role=sensor, 1 counted")


async def test_a_stream_stays_short(store: Store, audit: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest lines go, so that the trail cannot fill Redis."""
    monkeypatch.setattr(audit_log, "AUDIT_MAX_ENTRIES", 200)
    for _ in range(10):
        await audit.append([NewEntry(STRANGERS_AUDIT, Event(Actor("stranger"), EventKind.REFUSED))] * 100)
    assert await store.requests.command("XLEN", STRANGERS_AUDIT) <= 300


async def test_a_page_costs_a_bounded_amount_of_work(
    store: Store, audit: AuditStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing fits, a page ends empty with a cursor rather than reading on and on."""
    monkeypatch.setattr(audit_log, "READ_AT_ONCE", 10)
    monkeypatch.setattr(audit_log, "_ENTRIES_A_PAGE", 30)
    await audit.append([NewEntry(STRANGERS_AUDIT, Event(Actor("stranger"), EventKind.REFUSED))] * 100)
    page = await audit.read_page([STREAMS.index(STRANGERS_AUDIT)], lambda line: False, END, since_ms=0, limit=10)
    assert (page.entries, page.cursor is None) == ([], False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1",
        "1-2",
        "1-2-3-4",
        "-1-2-3",
        f"1-2-{len(STREAMS)}",
        "1-2-99",
        "1" * 16 + "-2-3",
        "1-2-3\n",
        "\u0661-2-3",
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    """Anything else than a place is refused, not guessed at."""
    assert AuditCursor.parse(text) is None


def test_a_cursor_reads_as_it_was_written() -> None:
    """It is text in between."""
    assert AuditCursor.parse(str(AuditCursor(1_790_000_000_000, 7, 65))) == AuditCursor(1_790_000_000_000, 7, 65)
