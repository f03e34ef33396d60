from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog
from argon2 import PasswordHasher

from app.errors import Refusal, SignInFailed, TooManyRequests, Unavailable
from app.model.operators import OperatorRole
from app.model.secrets import Password, Secret, SessionId
from app.service import passwords
from app.service.operators import OperatorAdmin
from app.service.passwords import MAX_CHECKS, Passwords
from app.service.sign_in import SignIn
from app.store.attempts import FREE_BY_ADDRESS, FREE_FROM_ONE_ADDRESS
from app.store.operators import Operators
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from tests import processes
from tests.actors import CLI
from tests.service.conftest import CountingHasher, hash_with
from tests.service.test_operators import HERE, OTHER, PASSWORD, audit_lines

WRONG = Password("wrong horse battery")


@pytest.fixture
async def office(operators: Operators, hashing: CountingHasher) -> OperatorAdmin:
    """An office with one operator, ann."""
    office = OperatorAdmin(operators)
    await office.add_operator("ann", OperatorRole.OPERATOR, PASSWORD, actor=CLI)
    return office


@pytest.fixture
def door(operators: Operators, sessions: Sessions, office: OperatorAdmin) -> SignIn:
    """Where operators sign in."""
    return SignIn(operators, sessions)


async def refused(door: SignIn, name: str, password: Password, address: str = HERE) -> Refusal:
    """Try to sign in, and return the refusal."""
    with pytest.raises((SignInFailed, TooManyRequests)) as caught:
        await door.sign_in(name, password, address)
    return caught.value


async def test_a_session_from_its_beginning_to_its_end(door: SignIn, store: Store) -> None:
    """Signed in, found, signed out, gone; what begins and ends is told, with the address."""
    signed_in = await door.sign_in("ann", PASSWORD, HERE)
    assert await door.find_session(signed_in.session) == signed_in.operator
    assert await door.find_session(signed_in.session, touch=False) == signed_in.operator
    await door.sign_out(signed_in.session)
    await door.sign_out(signed_in.session)
    assert await door.find_session(signed_in.session) is None
    assert await door.find_session(SessionId("x" * 43)) is None
    told = [("operator:ann", "signed_in", f"from {HERE}"), ("operator:ann", "signed_out", "")]
    assert (await audit_lines(store))[1:] == told


async def test_an_unknown_name_is_answered_as_a_wrong_password_is(door: SignIn, hashing: CountingHasher) -> None:
    """In the same words, after one check of a hash of the same parameters each, whatever the name or password is."""
    hashing.checked.clear()
    tried = [
        ("ann", WRONG),
        ("bob", WRONG),
        ("bob", PASSWORD),
        ("ANN", PASSWORD),
        ("<b>", WRONG),
        ("x" * 10_000, WRONG),
    ]
    tried += [("ann", Password(text)) for text in ("", "x", "x" * 1_000_000, "\ud800" * 12)]
    refusals = [await refused(door, *each, f"192.0.2.{number}") for number, each in enumerate(tried)]
    assert {(type(each), str(each), each.cause, each.retry_after_s) for each in refusals} == {
        (SignInFailed, str(refusals[0]), "", None)
    }
    assert hashing.checked == ["$argon2id$v=19$m=8,t=1,p=1"] * len(tried)


async def test_no_password_longer_than_any_can_be_is_hashed(
    door: SignIn, office: OperatorAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte costs as much as any wrong one, and what stands in for it is nobody's password."""
    seen: list[int] = []

    class Watching(CountingHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
            seen.append(len(password))
            return super().verify(hash, password)

    hash_with(monkeypatch, Watching())
    stand_in = Password("no password is like this one")
    await office.add_operator("eve", OperatorRole.VIEWER, stand_in, actor=CLI)
    for text in ("", "x" * 257, "x" * 1_000_000):
        await refused(door, "eve", Password(text))
    assert max(seen) <= 256
    assert (await door.sign_in("eve", stand_in, HERE)).operator.name == "eve"


@pytest.mark.parametrize("name", ["ann", "nobody", "<b>x</b>", ""])
async def test_guesses_become_slower_whether_or_not_the_name_exists(
    door: SignIn, store: Store, hashing: CountingHasher, name: str
) -> None:
    """After five, 429 with how long to wait; what comes too early is not hashed, not even the right password."""
    for _ in range(FREE_FROM_ONE_ADDRESS):
        assert (await refused(door, name, WRONG, HERE)).status == 401
    hashing.checked.clear()
    for wait_s in (1, 2, 4):
        for password in (WRONG, PASSWORD):
            early = await refused(door, name, password, HERE)
            assert (early.status, early.retry_after_s) == (429, wait_s)
        store.clock.shift_ms += wait_s * 1000
        assert (await refused(door, name, WRONG, HERE)).status == 401
    assert len(hashing.checked) == 3


async def test_parallel_guesses_are_no_way_round(door: SignIn, hashing: CountingHasher) -> None:
    """Of many at once as many passwords are looked at as of one after another."""
    hashing.checked.clear()
    tries = (door.sign_in("ann", WRONG, HERE) for _ in range(MAX_CHECKS))
    refusals = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(each) for each in refusals].count(SignInFailed) == FREE_FROM_ONE_ADDRESS == len(hashing.checked)
    assert [type(each) for each in refusals].count(TooManyRequests) == MAX_CHECKS - FREE_FROM_ONE_ADDRESS


async def test_one_address_cannot_try_a_password_on_everybody(door: SignIn) -> None:
    """After twenty names it is slowed down, and so is all of its IPv6 network."""
    for number in range(FREE_BY_ADDRESS):
        assert (await refused(door, f"name{number}", WRONG, f"2001:db8::{number + 1}")).status == 401
    assert (await refused(door, "ann", PASSWORD, "2001:db8::ffff")).status == 429
    assert (await door.sign_in("ann", PASSWORD, "2001:db8:0:1::1")).operator.name == "ann"


async def test_signing_in_clears_the_count(door: SignIn) -> None:
    """Who mistyped four times and then got it right starts anew."""
    for _ in range(3):
        for _ in range(FREE_FROM_ONE_ADDRESS - 1):
            assert (await refused(door, "ann", WRONG)).status == 401
        await door.sign_in("ann", PASSWORD, HERE)


async def test_refusals_are_told_apart_from_what_happened(door: SignIn, store: Store) -> None:
    """In the strangers' stream, with the name if it is an operator's: any other may be a password in the wrong field.

    A flood that is slowed down writes nothing.
    """
    happened = await audit_lines(store)
    with structlog.testing.capture_logs() as logs:
        for name in ("ann", PASSWORD.reveal(), "Hunter2-hunter2", "x\n\x1b[31m", "x" * 10_000, "hunter 2 hunter 2"):
            await refused(door, name, WRONG, HERE)
        await refused(door, "ann", WRONG, "no address <b>")
    told = [f"ann from {HERE}", *[f"unknown name from {HERE}"] * 5, "ann"]
    assert await audit_lines(store, "{strangers}:a") == [("stranger", "sign_in_refused", detail) for detail in told]
    assert logs == []  # they are shipped to it, as all else
    for _ in range(20):
        await refused(door, "ann", WRONG, HERE)
    assert len(await audit_lines(store, "{strangers}:a")) <= len(told) + FREE_FROM_ONE_ADDRESS
    assert await audit_lines(store) == happened


async def test_the_refusal_stands_though_it_cannot_be_written_down(
    door: SignIn, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis full or gone just then: refused all the same, and it is in the log."""

    async def full(*_: object) -> None:
        raise Unavailable("full", cause="OOM")

    monkeypatch.setattr(operators.attempts.audit, "append", full)
    with structlog.testing.capture_logs() as logs:
        assert (await refused(door, "ann", WRONG)).status == 401
    [line] = logs
    told = {name: line[name] for name in ("event", "who", "what", "detail", "cause")}
    assert told == {
        "event": "audit_unrecorded",
        "who": "stranger",
        "what": "sign_in_refused",
        "detail": f"ann from {HERE}",
        "cause": "OOM",
    }


async def test_a_hash_of_older_parameters_is_made_anew(
    door: SignIn, office: OperatorAdmin, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next right password, once, without ending a session or changing anything else."""
    before = (await door.sign_in("ann", PASSWORD, HERE)).session
    hasher = hash_with(monkeypatch, CountingHasher(memory_cost=16))
    await refused(door, "ann", WRONG)
    assert hasher.made == 0
    for _ in range(2):
        await door.sign_in("ann", PASSWORD, HERE)
        account = await operators.find_operator("ann")
        assert account is not None
        assert "m=16,t=1,p=1" in account.hash.reveal()
        assert hasher.made == 1
    assert await door.find_session(before) is not None


async def test_a_password_typed_on_another_keyboard_is_the_same(door: SignIn, office: OperatorAdmin) -> None:
    """Composed and decomposed characters hash alike."""
    await office.add_operator("eve", OperatorRole.VIEWER, Password("caf\u00e9 au lait"), actor=CLI)
    assert (await door.sign_in("eve", Password("cafe\u0301 au lait"), HERE)).operator.name == "eve"


async def test_who_is_changed_in_mid_sign_in_is_not_let_in(
    door: SignIn, office: OperatorAdmin, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that an admin replaces while the old one is looked at opens nothing any more."""
    passed = operators.attempts.forgive_attempts

    async def slowly(name: str, address: str) -> None:
        await passed(name, address)
        await office.set_password("ann", OTHER, actor=CLI)

    monkeypatch.setattr(operators.attempts, "forgive_attempts", slowly)
    assert (await refused(door, "ann", PASSWORD)).status == 401


async def test_only_so_many_passwords_are_looked_at_at_once(door: SignIn) -> None:
    """A flood from many addresses is refused rather than queued without end; places come free again."""
    tries = (door.sign_in(f"name{number}", WRONG, f"192.0.2.{number}") for number in range(100))
    refusals = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(each) for each in refusals].count(SignInFailed) == MAX_CHECKS
    assert [type(each) for each in refusals].count(Unavailable) == 100 - MAX_CHECKS
    await door.sign_in("ann", PASSWORD, "198.51.100.1")


async def test_the_loop_goes_on_while_a_password_is_hashed() -> None:
    """Hashing has threads of its own, and only so many: requests for tokens are not held up."""
    slow = Passwords(PasswordHasher())
    ticks = 0
    work = asyncio.ensure_future(slow.make("ann", PASSWORD))
    while not work.done():
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 10
    assert (await slow.check(work.result(), PASSWORD)).right
    assert slow._threads._executor._max_workers == passwords.THREADS


def test_hashes_are_those_of_the_current_profile() -> None:
    """Argon2id, with what the library recommends today; nobody's hash has the same form."""
    current = PasswordHasher()
    terms = f"$argon2id$v=19$m={current.memory_cost},t={current.time_cost},p={current.parallelism}$"
    nobodys = passwords.PASSWORDS._decoy.reveal()
    assert nobodys.startswith(terms)
    assert len(nobodys) == len(current.hash("x"))
    assert not current.check_needs_rehash(nobodys)


async def test_nothing_secret_lies_in_redis_or_the_log(
    door: SignIn, office: OperatorAdmin, store: Store, keys: SealingKeys
) -> None:
    """Neither a password nor its hash nor a session: not in any key, value, log line or ``repr``."""
    with structlog.testing.capture_logs() as logs:
        made = await office.add_operator("eve", OperatorRole.ADMIN, actor=CLI)
        assert made.password is not None
        signed_in = await door.sign_in("eve", made.password, HERE)
        await door.find_session(signed_in.session)
        await refused(door, "eve", WRONG)
        await office.change_password("eve", made.password, OTHER, actor=CLI)
    dump = []
    for key in await store.requests.command("KEYS", "*"):
        dump.append(key)
        kind = await store.requests.command("TYPE", key)
        reader = {"string": ("GET", key), "hash": ("HGETALL", key), "stream": ("XRANGE", key, "-", "+")}[kind]
        dump.append(str(await store.requests.command(*reader)))
    everything = "\n".join(dump) + repr((logs, made, signed_in))
    assert "eve" in everything
    for secret in (made.password, signed_in.session, WRONG, OTHER, PASSWORD):
        assert secret.reveal() not in everything
    assert "argon2" not in everything


async def test_a_full_redis_keeps_nobody_out(
    door: SignIn, office: OperatorAdmin, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has to revoke something signs in, and who has to go is put out, when nothing else can be written."""
    session = (await door.sign_in("ann", PASSWORD, HERE)).session
    hash_with(monkeypatch, CountingHasher(memory_cost=16))
    await store.requests.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(Unavailable):
            await store.requests.command("SET", "x", "y")
        assert (await refused(door, "ann", WRONG)).status == 401
        again = (await door.sign_in("ann", PASSWORD, HERE)).session
        assert await door.find_session(session) is not None
        await door.sign_out(session)
        await office.end_sessions("ann", actor=CLI)
        assert await door.find_session(again) is None
        await office.remove_operator("ann", actor=CLI)
        assert (await refused(door, "ann", PASSWORD)).status == 401
    finally:
        await store.requests.command("CONFIG", "SET", "maxmemory", 0)


async def test_a_restart_of_redis_keeps_operators_and_their_sessions(
    tmp_path: Path, keys: SealingKeys, hashing: CountingHasher
) -> None:
    """Killed and started again: who was added signs in, who was signed in still is, and who was removed is not."""
    state = tmp_path / "own"
    with processes.running_valkey(state) as url:
        store = Store(Secret(url))
        operators = Operators(store, keys)
        office, door = (
            OperatorAdmin(operators),
            SignIn(operators, Sessions(store, keys, operators)),
        )
        await office.add_operator("ann", OperatorRole.ADMIN, PASSWORD, actor=CLI)
        await office.add_operator("bob", OperatorRole.VIEWER, PASSWORD, actor=CLI)
        ann = (await door.sign_in("ann", PASSWORD, HERE)).session
        bob = (await door.sign_in("bob", PASSWORD, HERE)).session
        await office.remove_operator("bob", actor=CLI)
    for verb in (door.sign_in("ann", PASSWORD, HERE), door.find_session(ann), door.has_no_operators()):
        with pytest.raises(Unavailable):
            await verb
    with processes.running_valkey(state):
        assert await door.find_session(ann) is not None
        assert await door.find_session(bob) is None
        assert (await door.sign_in("ann", PASSWORD, HERE)).operator.role is OperatorRole.ADMIN
        await store.close()
