from __future__ import annotations

from collections.abc import Iterable

import pytest

from app.model.actors import Actor
from app.store import audit_shipping
from app.store.audit import STREAMS, AuditEntry, AuditStore, Event, EventKind, NewEntry
from app.store.audit_shipping import BATCH, AuditShipping, UnshippedEntries
from app.store.constants import AUDIT_KEPT_ENTRIES, AUDIT_MAX_ENTRIES
from app.store.redis_keys import JOBS_AUDIT, OPERATORS_AUDIT, Shard, shipped_key
from app.store.store import Store
from tests.waiting import until

STREAM = Shard(7).audit

APPEND_MANY = """
for number = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'who', 'w', 'what', 'called', 'client_id', '',
    'handle', '', 'detail', number, 'request_id', '')
end
"""


DUMP = """
local dump = redis.call('DUMP', KEYS[1])
return (dump:gsub('.', function(byte) return string.format('%02x', byte:byte()) end))
"""
"""In hexadecimal digits: the client reads every answer as text."""

RESTORE = """
local dump = ARGV[1]:gsub('..', function(digits) return string.char(tonumber(digits, 16)) end)
return redis.call('RESTORE', KEYS[1], 0, dump, 'REPLACE')
"""


@pytest.fixture
def shipping(store: Store) -> AuditShipping:
    """The state of shipping in that store."""
    return AuditShipping(store)


async def append(store: Store, *details: str, stream: str = STREAM) -> None:
    """Append entries to one stream."""
    events = [Event(Actor("cli:test", "r1"), EventKind.CALLED, detail) for detail in details]
    await AuditStore(store).append([NewEntry(stream, event) for event in events])


async def append_many(store: Store, count: int, limit: int = AUDIT_MAX_ENTRIES) -> None:
    """Append so many entries at once, under the hard limit of a stream's length."""
    await store.requests.command("EVAL", APPEND_MANY, 1, STREAM, count, limit)


async def ship(shipping: AuditShipping) -> tuple[list[AuditEntry], int]:
    """Ship everything; return it, and how many entries were lost."""
    entries: list[AuditEntry] = []
    lost = 0
    while batches := await shipping.read_unshipped():
        entries += [entry for batch in batches for entry in batch.entries]
        lost += sum(batch.lost for batch in batches)
        await shipping.save_shipped(batches)
    return entries, lost


def details(entries: Iterable[AuditEntry]) -> list[str]:
    """Return what the entries say."""
    return [entry.detail for entry in entries]


async def test_only_one_instance_has_the_lease(
    store: Store, shipping: AuditShipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it gives the lease back, or has not asked for a lease's time."""
    assert [await shipping.hold_lease(name) for name in ("a", "b", "a", "b")] == [True, False, True, False]
    await shipping.release_lease("b")
    assert not await shipping.hold_lease("b")
    await shipping.release_lease("a")
    monkeypatch.setattr(audit_shipping, "LEASE_MS", 50)
    assert await shipping.hold_lease("b")
    await until(lambda: shipping.hold_lease("a"), "the lease of an instance that died")


async def test_entries_of_all_streams_are_read_in_order_until_they_are_saved(
    store: Store, shipping: AuditShipping
) -> None:
    """Each with all that it holds; what is saved is not read again."""
    assert await shipping.read_unshipped() == []
    await append(store, "1", "2")
    await append(store, "3", stream=OPERATORS_AUDIT)
    read = await shipping.read_unshipped()
    assert [(STREAMS[batch.stream], details(batch.entries), batch.lost) for batch in read] == [
        (STREAM, ["1", "2"], 0),
        (OPERATORS_AUDIT, ["3"], 0),
    ]
    [first, _] = read[0].entries
    assert (first.who, first.what, first.request_id, first.id.split("-")[2]) == ("cli:test", "called", "r1", "7")
    assert await shipping.read_unshipped() == read
    await shipping.save_shipped(read)
    await append(store, "4")
    assert details((await ship(shipping))[0]) == ["4"]
    assert await shipping.read_unshipped() == []


async def test_a_batch_is_bounded(store: Store, shipping: AuditShipping) -> None:
    """However much there is."""
    await append_many(store, 3 * BATCH)
    [batch] = await shipping.read_unshipped()
    assert len(batch.entries) == BATCH
    assert details((await ship(shipping))[0]) == [str(number) for number in range(1, 3 * BATCH + 1)]


async def test_a_position_is_saved_once_and_never_moved_back(store: Store, shipping: AuditShipping) -> None:
    """A paused instance, or a resend, changes nothing of what another has saved meanwhile."""
    await append(store, "1")
    slow = await shipping.read_unshipped()
    await append(store, "2")
    await ship(shipping)
    for _ in range(2):
        await shipping.save_shipped(slow)
    assert await shipping.read_unshipped() == []


async def test_what_is_shipped_is_trimmed_and_the_last_entries_stay(store: Store, shipping: AuditShipping) -> None:
    """About so many; what is not shipped yet is kept, whatever its number."""
    await append_many(store, AUDIT_KEPT_ENTRIES + 2_000)
    [batch] = await shipping.read_unshipped()
    await shipping.save_shipped([batch])
    unshipped = AUDIT_KEPT_ENTRIES + 2_000 - BATCH
    assert unshipped <= await store.requests.command("XLEN", STREAM) <= unshipped + 200
    entries, lost = await ship(shipping)
    assert (len(entries), lost) == (unshipped, 0)
    assert AUDIT_KEPT_ENTRIES <= await store.requests.command("XLEN", STREAM) <= AUDIT_KEPT_ENTRIES + 200


async def test_entries_lost_unshipped_are_counted_exactly(store: Store, shipping: AuditShipping) -> None:
    """Beyond the hard limit the oldest go: before the first shipping, and between two."""
    await append_many(store, 1_000, limit=300)
    left = await store.requests.command("XLEN", STREAM)
    [batch] = await shipping.read_unshipped()
    assert batch.lost == 1_000 - left > 0
    await shipping.save_shipped([batch])
    await append_many(store, 2_000, limit=300)
    left_now = await store.requests.command("XLEN", STREAM)
    [batch] = await shipping.read_unshipped()
    assert batch.lost == left - BATCH + 2_000 - left_now
    entries, lost = await ship(shipping)
    assert (len(entries), lost) == (left_now, left - BATCH + 2_000 - left_now)
    await append_many(store, 10)
    assert [(len(each.entries), each.lost) for each in await shipping.read_unshipped()] == [(10, 0)]


async def test_scripts_keep_to_the_hard_limit(store: Store, shipping: AuditShipping) -> None:
    """Nothing but the limit trims a stream that is not shipped."""
    await append_many(store, AUDIT_MAX_ENTRIES + 5_000)
    assert AUDIT_MAX_ENTRIES <= await store.requests.command("XLEN", STREAM) <= AUDIT_MAX_ENTRIES + 200


@pytest.mark.parametrize("vanished", ["everything", "the stream", "the position"])
async def test_after_a_loss_nothing_new_is_missed(store: Store, shipping: AuditShipping, vanished: str) -> None:
    """A Redis that was emptied, or a stream or position alone: what is there now is shipped."""
    await append(store, "1", "2", "3")
    await ship(shipping)
    late: list[UnshippedEntries] = []
    if vanished == "everything":
        await append(store, "4")
        late = await shipping.read_unshipped()
        await store.requests.command("FLUSHALL")
        await shipping.save_shipped(late)
    else:
        await store.requests.command("DEL", STREAM if vanished == "the stream" else shipped_key(STREAM))
    await append(store, "5", "6")
    entries, lost = await ship(shipping)
    expected = ["1", "2", "3", "5", "6"] if vanished == "the position" else ["5", "6"]
    assert (details(entries), lost) == (expected, 0)
    await append(store, "7")
    assert details((await ship(shipping))[0]) == ["7"]


async def test_a_stream_that_was_set_back_is_shipped_from_its_start(store: Store, shipping: AuditShipping) -> None:
    """Its new entries may have IDs below the position, as after a failover to a Redis whose clock is behind."""
    await append(store, "1", stream=JOBS_AUDIT)
    await ship(shipping)
    await store.requests.command("DEL", JOBS_AUDIT)
    fields = ("who", "w", "what", "called", "client_id", "", "handle", "", "detail", "new", "request_id", "")
    await store.requests.command("XADD", JOBS_AUDIT, "5-1", *fields)
    entries, lost = await ship(shipping)
    assert (details(entries), lost) == (["new"], 0)


@pytest.mark.parametrize("clock_is_behind", [False, True])
async def test_entries_that_were_lost_after_they_were_read_move_no_position(
    store: Store, shipping: AuditShipping, *, clock_is_behind: bool
) -> None:
    """A failover may lose the last entries of a stream between reading and saving them, and others take their place.

    By a clock that is behind they may even have lower IDs. Each of these is shipped, and the counts stay right.
    """
    await append(store, "1")
    await ship(shipping)
    await append(store, "2")
    before = await store.requests.command("EVAL", DUMP, 1, STREAM)
    await append(store, "3", "4")
    late = await shipping.read_unshipped()
    assert [details(batch.entries) for batch in late] == [["2", "3", "4"]]
    await store.requests.command("EVAL", RESTORE, 1, STREAM, before)
    if clock_is_behind:
        [batch] = late
        lower = batch.entries[1].id.rpartition("-")[0]
        fields = ("who", "w", "what", "called", "client_id", "", "handle", "", "detail", "5", "request_id", "")
        await store.requests.command("XADD", STREAM, lower, *fields)
    else:
        await append(store, "5")
    await append(store, "6")
    await shipping.save_shipped(late)
    entries, lost = await ship(shipping)
    assert details(entries)[-2:] == ["5", "6"]
    assert lost == 0
    added = dict(zip(*[iter(await store.requests.command("XINFO", "STREAM", STREAM))] * 2, strict=True))
    assert int(await store.requests.command("HGET", shipped_key(STREAM), "count")) == added["entries-added"]


async def test_an_entry_of_another_version_holds_nothing_up(store: Store, shipping: AuditShipping) -> None:
    """While instances are replaced one by one, an old one may read fields that it does not know."""
    fields = ("who", "w", "what", "of_tomorrow", "client_id", "c", "handle", "h", "detail", "new", "colour", "blue")
    await store.requests.command("XADD", STREAM, "*", *fields)
    await append(store, "2")
    entries, lost = await ship(shipping)
    assert (details(entries), lost) == (["new", "2"], 0)
    assert (entries[0].who, entries[0].what, entries[0].request_id) == ("w", "of_tomorrow", "")


async def test_shipping_goes_on_when_redis_is_full(store: Store, shipping: AuditShipping) -> None:
    """Lease and positions need no room."""
    await append(store, "1")
    await store.requests.command("CONFIG", "SET", "maxmemory", 1)
    try:
        assert await shipping.hold_lease("a")
        assert details((await ship(shipping))[0]) == ["1"]
    finally:
        await store.requests.command("CONFIG", "SET", "maxmemory", 0)
