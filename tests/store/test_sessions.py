from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.operators import Operator, OperatorRole
from app.model.secrets import PasswordHash, SessionId
from app.store.constants import SESSION_IDLE_MS, SESSION_LONGEST_MS
from app.store.operators import Operators, StoredOperator
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from tests.sealing_keys import new_key_text
from tests.store.test_operators import ANN, CHANGED, HASH, REMOVED, put

MARGIN_MS = 60_000
"""More than such a test takes: real time passes beside the clock's shift."""


@pytest.fixture
async def account(operators: Operators) -> StoredOperator:
    """An operator."""
    return await put(operators)


async def begin(sessions: Sessions, account: StoredOperator) -> SessionId:
    """Begin a session."""
    session = await sessions.begin_session(account, "from 192.0.2.1")
    assert session is not None
    return session


async def the_key(store: Store) -> str:
    """Return the key of the one session there is."""
    [key] = await store.requests.command("KEYS", "{ops}:s:*")
    return str(key)


async def test_a_session_is_found_until_it_is_ended(sessions: Sessions, account: StoredOperator, store: Store) -> None:
    """By its ID alone; signing in and out are lines of the audit, each once."""
    mine, other = await begin(sessions, account), await begin(sessions, account)
    assert await sessions.find_session(mine, touch=True) == account
    await sessions.end_session(mine)
    await sessions.end_session(mine)
    assert await sessions.find_session(mine, touch=True) is None
    assert await sessions.find_session(other, touch=False) == account
    lines = [
        dict(zip(words[::2], words[1::2], strict=True))
        for _, words in await store.requests.command("XRANGE", "{ops}:a", "-", "+")
    ]
    assert [(line["who"], line["what"], line["detail"]) for line in lines[1:]] == [
        *[("operator:ann", "signed_in", "from 192.0.2.1")] * 2,
        ("operator:ann", "signed_out", ""),
    ]


async def test_redis_does_not_hold_the_session(sessions: Sessions, account: StoredOperator, store: Store) -> None:
    """Whoever reads Redis cannot sign in by what is there, not even with the key's own name."""
    session = await begin(sessions, account)
    key = await the_key(store)
    dump = key + str(await store.requests.command("HGETALL", key))
    assert session.reveal() not in dump
    assert await sessions.find_session(SessionId(key.rpartition(":")[2]), touch=True) is None


@pytest.mark.parametrize(
    "text", ["", "x", "x" * 42, "x" * 43, "x" * 44, "x" * 100_000, "é" * 43, "\ud800" * 43, "\n" * 43]
)
async def test_what_is_no_session(sessions: Sessions, account: StoredOperator, text: str) -> None:
    """A cookie may hold anything; signing out with it ends no session."""
    mine = await begin(sessions, account)
    assert await sessions.find_session(SessionId(text), touch=True) is None
    await sessions.end_session(SessionId(text))
    assert await sessions.find_session(mine, touch=False) == account


async def test_a_session_unused_for_half_an_hour_is_gone(
    sessions: Sessions, account: StoredOperator, store: Store
) -> None:
    """Each look that touches it prolongs it; one that does not, such as a page that refreshes itself, does not."""
    session = await begin(sessions, account)
    for _ in range(4):
        store.clock.shift_ms += SESSION_IDLE_MS - MARGIN_MS
        assert await sessions.find_session(session, touch=True)
    store.clock.shift_ms += SESSION_IDLE_MS - MARGIN_MS
    key = await the_key(store)
    ttl_ms = await store.requests.command("PTTL", key)
    assert await sessions.find_session(session, touch=False)
    assert await store.requests.command("PTTL", key) <= ttl_ms
    store.clock.shift_ms += MARGIN_MS
    assert await sessions.find_session(session, touch=True) is None
    assert await store.requests.command("KEYS", "{ops}:s:*") == []


async def test_a_session_ends_after_half_a_day_however_much_it_is_used(
    sessions: Sessions, account: StoredOperator, store: Store
) -> None:
    """A session that is used without a pause ends too."""
    ends_at_ms = store.clock.now_ms() + SESSION_LONGEST_MS
    session = await sessions.begin_session(account, "")
    assert session is not None
    while store.clock.now_ms() < ends_at_ms - SESSION_IDLE_MS:
        store.clock.shift_ms += SESSION_IDLE_MS // 2
        assert await sessions.find_session(session, touch=True)
    store.clock.shift_ms += ends_at_ms - store.clock.now_ms() - MARGIN_MS
    assert await sessions.find_session(session, touch=True)
    store.clock.shift_ms += 2 * MARGIN_MS
    assert await sessions.find_session(session, touch=True) is None


async def test_a_session_lies_in_redis_no_longer_than_it_lasts(
    sessions: Sessions, account: StoredOperator, store: Store
) -> None:
    """What nobody asks for again is cleaned up by its TTL."""
    session = await begin(sessions, account)
    key = await the_key(store)
    assert 0 < await store.requests.command("PTTL", key) <= SESSION_IDLE_MS
    store.clock.shift_ms += SESSION_IDLE_MS // 2
    await sessions.find_session(session, touch=True)
    assert SESSION_IDLE_MS - 5000 < await store.requests.command("PTTL", key) <= SESSION_IDLE_MS


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["begin", "change", "remove", "add", "back", "on"]), max_size=14))
async def test_no_history_revives_a_session(
    store: Store, operators: Operators, sessions: Sessions, steps: list[str]
) -> None:
    """Whatever is changed, removed and added again, whatever the clock does: a session lives in its own epoch alone."""
    await store.requests.command("FLUSHALL")
    store.clock.shift_ms = 0
    live: list[SessionId] = []
    ended: list[SessionId] = []
    for step in steps:
        account = await operators.find_operator("ann")
        match step:
            case "begin" if account:
                live.append(await begin(sessions, account))
            case "change" | "remove" if account:
                gone = step == "remove"
                act = REMOVED if gone else CHANGED
                assert await operators.write_operator(
                    await operators.read_operators(), ANN, None if gone else HASH, event=act
                )
                ended, live = ended + live, []
            case "add" if not account:
                await put(operators)
            case "back" | "on":  # by a few minutes, so that no session ends by itself
                store.clock.shift_ms += 120_000 if step == "on" else -120_000
            case _:
                pass
        assert all([await sessions.find_session(session, touch=True) is None for session in ended])
        assert all([await sessions.find_session(session, touch=False) is not None for session in live])


async def test_no_session_begins_for_an_operator_changed_meanwhile(
    sessions: Sessions, operators: Operators, account: StoredOperator
) -> None:
    """Who was dismissed while the password was looked at is not let in."""
    changed = await put(operators, act=CHANGED)
    assert await sessions.begin_session(account, "") is None
    assert await operators.write_operator(await operators.read_operators(), ANN, None, event=REMOVED)
    assert await sessions.begin_session(changed, "") is None


async def test_whoever_writes_to_redis_signs_in_as_nobody(
    sessions: Sessions, operators: Operators, account: StoredOperator, store: Store
) -> None:
    """A session made another operator's, another epoch's or younger is none; a prolonged one ends in time."""
    root = await put(operators, Operator("root", OperatorRole.ADMIN, 1))
    session = await begin(sessions, account)
    key = await the_key(store)
    honest = await store.requests.command("HMGET", key, "name", "epoch", "created_at_ms", "seal")
    for forged in (
        ("root", root.epoch, honest[2], honest[3]),
        ("ann", honest[1], int(honest[2]) + 1, honest[3]),
        ("root", root.epoch, honest[2], ""),
        ("root", root.epoch, honest[2], "k1.AAAA"),
    ):
        words = [word for pair in zip(("name", "epoch", "created_at_ms", "seal"), forged, strict=True) for word in pair]
        await store.requests.command("HSET", key, *words)
        assert await sessions.find_session(session, touch=True) is None
    await store.requests.command("HSET", key, "name", "ann", "epoch", honest[1], "seal", honest[3], "until_ms", 1 << 45)
    assert await sessions.find_session(session, touch=False) is not None
    store.clock.shift_ms = SESSION_LONGEST_MS
    assert await sessions.find_session(session, touch=False) is None
    other = Sessions(store, SealingKeys.parse(new_key_text("k1")), operators)
    assert await sessions.find_session(await begin(other, root), touch=True) is None


async def test_the_role_is_the_one_they_have_now(
    sessions: Sessions, operators: Operators, account: StoredOperator
) -> None:
    """It is read with the session, in the same step."""
    promoted = replace(account.operator, role=OperatorRole.ADMIN)
    now = await put(operators, promoted, CHANGED)
    found = await sessions.find_session(await begin(sessions, now), touch=True)
    assert found is not None
    assert found.operator.role is OperatorRole.ADMIN


def test_a_session_and_a_hash_are_blank(account: StoredOperator) -> None:
    """Neither is in a log or a traceback."""
    assert "secret" not in repr([SessionId("secret"), PasswordHash("secret")])
    assert HASH.reveal() not in repr(account)
