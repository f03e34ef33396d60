from __future__ import annotations

import pytest

from app.model.actors import Actor
from app.model.selections import Selection
from app.store.constants import EVERYTHING
from app.store.cursor import InvalidCursor
from app.store.index import IndexCursor, TokenIndex
from app.store.records import Priority, TokenRecord
from app.store.redis_keys import ALL_SHARDS, Shard
from app.store.revocations import RevocationQueue
from app.store.store import Store
from tests.store.events import REMOVED
from tests.store.fleet import Fleet
from tests.store.test_tokens import begin_application, keep, want


async def listed(index: TokenIndex, selection: Selection, limit: int) -> list[str]:
    """Return the handles of all pages."""
    handles: list[str] = []
    cursor = ""
    while True:
        page = await index.list_tokens(selection, cursor, limit, budget_s=5)
        assert len(page.records) <= limit
        handles += [record.handle for record in page.records]
        cursor = page.next_cursor
        if not cursor:
            return handles


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_hold_each_live_token_once_by_expiry(fleet: Fleet, index: TokenIndex, limit: int) -> None:
    """By role, client ID, topic or altogether, whatever the size of a page; what expires at one instant included."""
    lives = (3000, 1000, 2000, 2000)
    sensors = [await fleet.issue(f"s{number}", life_s=lives[number % 4]) for number in range(20)]
    lines = [await fleet.issue(f"l{number}", role="line", scope=f"sub:Plant/l{number}/#") for number in range(5)]
    await fleet.begin_application("applying")
    revoked = await fleet.issue("revoked")
    await fleet.tokens.revoke_token(revoked, actor=Actor("cli:test"))
    expected = {
        Selection.of_role("sensor"): sensors,
        Selection.of_role("line"): lines,
        Selection.of_role("none"): [],
        Selection.of_everything(): sensors + lines,
        Selection.of_client_id(sensors[3].client_id): [sensors[3]],
        Selection.of_handle(sensors[3].handle): [sensors[3]],
        Selection.of_handle(revoked.handle): [],
        Selection.of_topic("sub:plant/#"): lines,
        Selection.of_topic("plant/l1/x"): [lines[1]],
        Selection.of_topic("pub:plant/+/up"): sensors,
    }
    for selection, records in expected.items():
        in_order = sorted(records, key=lambda record: (record.expires_at_ms, record.handle))
        assert await listed(index, selection, limit) == [record.handle for record in in_order], selection


async def test_many_that_expire_at_one_instant_are_all_met(store: Store, index: TokenIndex) -> None:
    """More of one millisecond than a page holds do not end the list, nor are they met twice."""
    shard = ALL_SHARDS[3]
    handles = sorted(shard.new_handle() for _ in range(50))
    await store.requests.command(
        "ZADD", shard.index, *(word for handle in handles for word in (2_000_000_000_000, handle))
    )
    place, met = IndexCursor(), []
    while places := await index.read_after([shard.index], place).take(7):
        place = places[-1]
        met += [each.handle for each in places]
    assert met == handles
    whole = await index.read_after([shard.index], IndexCursor()).take(1000)
    assert [each.handle for each in whole] == handles


async def test_indexes_of_any_proportion_are_read_as_one(store: Store, index: TokenIndex) -> None:
    """All of a page in one shard, many of one millisecond there, a few in others: in order, each once."""
    expected: list[IndexCursor] = []
    for shard, times in (
        (ALL_SHARDS[3], range(2_000, 2_300)),
        (ALL_SHARDS[4], [2_100] * 150),
        (ALL_SHARDS[5], [1_999, 2_100, 9_000]),
    ):
        places = [IndexCursor(at + 2_000_000_000_000, shard.new_handle()) for at in times]
        expected += places
        words = [word for each in places for word in (each.expires_at_ms, each.handle)]
        await store.requests.command("ZADD", shard.index, *words)
    keys = [shard.index for shard in ALL_SHARDS]
    for limit in (1, 7, 50, 1000):
        place, met = IndexCursor(), list[IndexCursor]()
        while places := await index.read_after(keys, place).take(limit):
            assert len(places) <= limit
            place = places[-1]
            met += places
        assert met == sorted(expected), limit
        merged, met = index.read_after(keys, IndexCursor()), []
        while places := await merged.take(limit):
            met += places
        assert met == sorted(expected), limit


async def test_a_walk_meets_what_moves_on_its_way(fleet: Fleet, store: Store, index: TokenIndex) -> None:
    """An application that is stored while a shard is searched is met, though its token ends before its horizon."""
    lease = await fleet.begin_application("d1", life_s=70)
    shard = Shard.of(lease.wanted.device.client_id)
    store.clock.shift_ms = 20_000
    assert await fleet.tokens.extend(lease)
    [(_, before)] = await scored(store, shard)
    store.clock.shift_ms = 21_000
    await fleet.tokens.store(lease, (), store.clock.now_ms() + 50_000, whole=True, actor=Actor("device:test"))
    [(_, after)] = await scored(store, shard)
    assert after >= before


async def scored(store: Store, shard: Shard) -> list[tuple[str, int]]:
    """Return the shard's records with their times."""
    row = await store.requests.command("ZRANGE", shard.index, 0, -1, "WITHSCORES")
    return [(handle, int(score)) for handle, score in zip(row[::2], row[1::2], strict=True)]


async def test_a_search_returns_in_time(fleet: Fleet, index: TokenIndex) -> None:
    """Out of time, a page may be empty and still have a next; the pages together are whole."""
    records = await fleet.issue_many(8)
    wanted = await fleet.issue("wanted", scope="pub:other/topic", life_s=7200)
    selection, cursor, pages = Selection.of_topic("other/#"), "", 0
    found: list[TokenRecord] = []
    while pages == 0 or cursor:
        page = await index.list_tokens(selection, cursor, 2, budget_s=-1)
        cursor, pages = page.next_cursor, pages + 1
        found += page.records
    assert [record.handle for record in found] == [wanted.handle]
    assert len(records) == 8


@pytest.mark.parametrize("cursor", ["x", "-1.a", "1e5.", "1" * 16, "٣.a", "."])
async def test_a_wrong_cursor_is_refused(index: TokenIndex, cursor: str) -> None:
    """A cursor that this list never gave is told as that."""
    with pytest.raises(InvalidCursor, match="use next_cursor from the previous page"):
        await index.list_tokens(Selection.of_everything(), cursor, 5, budget_s=1)


async def test_counting_is_what_a_revoke_would_take(
    fleet: Fleet, store: Store, index: TokenIndex, revocations: RevocationQueue
) -> None:
    """Live tokens and applications count; revoked, expired and revoked ones do not, once they are queued."""
    records = await fleet.issue_many(4)
    short = await fleet.issue("short", life_s=100)
    application = await fleet.begin_application("application")
    await fleet.issue("line", role="line", scope="sub:line/x")
    await fleet.tokens.revoke_token(records[0], actor=Actor("cli:test"))
    told: list[tuple[int, int]] = []

    async def counts() -> list[int]:
        selections = [
            Selection.of_role("sensor"),
            Selection.of_everything(),
            Selection.of_topic("pub:plant/+/up"),
            Selection.of_client_id(records[1].client_id),
            Selection.of_handle(records[1].handle),
            Selection.of_handle(records[0].handle),
            Selection.of_handle("unknown"),
        ]
        return [await index.count_tokens(each, lambda done, found: told.append((done, found))) for each in selections]

    assert await counts() == [5, 6, 5, 1, 1, 0, 0]
    assert told[-1] == (64, 5)
    assert len(told) == 64
    store.clock.shift_ms = 101_000
    assert await index.count_tokens(Selection.of_role("sensor")) == 3  # the application's horizon is over too
    assert short.state == "live"
    assert application.wanted.role == "sensor"
    await revocations.raise_watermark(EVERYTHING, "job")
    assert await index.count_tokens(Selection.of_handle(records[1].handle)) == 0


async def test_a_survey_counts_devices_too_and_ends_in_time(fleet: Fleet, index: TokenIndex) -> None:
    """Tokens and applications, of how many devices, with the scopes of some; out of time, what it has so far."""
    device = await fleet.add("d1")
    for number in range(3):
        lease = await begin_application(fleet.tokens, want(device, f"pub:plant/d1/{number}"))
        await keep(fleet.tokens, fleet.store, lease, token=f"t{number}")
    await fleet.issue("d2")
    await fleet.begin_application("d3")
    await fleet.issue("line", role="line", scope="sub:line/x")
    for selection, counts in {
        Selection.of_everything(): (6, 4),
        Selection.of_role("sensor"): (5, 3),
        Selection.of_topic("sub:line/#"): (1, 1),
        Selection.of_topic("plant/d1/#"): (3, 1),
        Selection.of_topic("nothing/#"): (0, 0),
        Selection.of_client_id(device.client_id): (3, 1),
    }.items():
        survey = await index.survey(selection, budget_s=5)
        assert (survey.tokens, survey.devices, survey.whole, len(survey.scopes)) == (*counts, True, counts[0]), (
            selection
        )
        assert all(scope.startswith(("pub:", "sub:")) for scope in survey.scopes)
    hasty = await index.survey(Selection.of_everything(), budget_s=-1)
    assert not hasty.whole
    assert 0 < hasty.tokens < 6


async def test_how_far_a_list_is_can_be_told_from_its_cursor(fleet: Fleet, index: TokenIndex) -> None:
    """How many are behind it, of how many: whoever searches for a second a page sees it move."""
    records = [await fleet.issue(f"d{number}", life_s=1000 + number * 100) for number in range(4)]
    page = await index.list_tokens(Selection.of_everything(), "", 3, budget_s=5)
    assert await index.count_passed(page.next_cursor) == (3, 4)
    assert await index.count_passed(str(IndexCursor(records[0].expires_at_ms - 1))) == (0, 4)
    with pytest.raises(InvalidCursor, match="use next_cursor from the previous page"):
        await index.count_passed("x")


async def test_an_index_ends_with_its_last_record(fleet: Fleet, store: Store) -> None:
    """Every index has an end, and never one before that of what it holds; what expired is trimmed by who writes."""
    device = await fleet.add("d1")
    shard = Shard.of(device.client_id)
    keys = [shard.index, shard.role_index("sensor"), shard.device_index(device.client_id)]
    for number, life_s in enumerate((3000, 100)):
        lease = await begin_application(fleet.tokens, want(device, f"pub:plant/{number}", life_s))
        await keep(fleet.tokens, store, lease, token=f"t{number}")
        for key in keys:
            assert 2_990_000 < await store.requests.command("PTTL", key) <= 3_000_100
    store.clock.shift_ms = 200_000
    await begin_application(fleet.tokens, want(device, "pub:plant/9"), "r9")
    for key in keys:
        assert await store.requests.command("ZCARD", key) == 2


async def test_revoked_leaves_every_index(fleet: Fleet, store: Store, revocations: RevocationQueue) -> None:
    """Whichever way it was revoked, nothing of it is found or counted again."""
    records = await fleet.issue_many(3)
    await fleet.tokens.revoke_token(records[0], actor=Actor("cli:test"))
    await revocations.revoke_tokens(
        Shard.of(records[1].client_id), [records[1].handle], Priority.BULK, actor=Actor("cli:test")
    )
    device = await fleet.devices.read_device(records[2].client_id)
    assert device is not None
    await fleet.devices.remove_device(device.device, REMOVED)
    for record in records:
        shard = Shard.of(record.client_id)
        for key in (shard.index, shard.role_index("sensor"), shard.device_index(record.client_id)):
            assert await store.requests.command("EXISTS", key) == 0
