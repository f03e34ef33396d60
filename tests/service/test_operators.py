from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import InvalidRequest, NotFound, Refusal, SignInFailed, TooManyRequests, Unavailable
from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.service.operators import OperatorAdmin
from app.service.sign_in import SignIn
from app.store.operators import Operators
from app.store.redis_keys import OPERATORS
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from tests.actors import CLI
from tests.sealing_keys import new_key_text
from tests.service.conftest import CountingHasher

PASSWORD = Password("correct horse battery")
OTHER = Password("staple of another kind")
HERE = "192.0.2.1"


@pytest.fixture
def office(operators: Operators, hashing: CountingHasher) -> OperatorAdmin:
    """What an admin works with."""
    return OperatorAdmin(operators)


@pytest.fixture
def door(operators: Operators, sessions: Sessions) -> SignIn:
    """Where operators sign in."""
    return SignIn(operators, sessions)


async def audit_lines(store: Store, stream: str = "{ops}:a") -> list[tuple[str, str, str]]:
    """Return who did what of a stream, the oldest first."""
    entries = [
        dict(zip(words[::2], words[1::2], strict=True))
        for _, words in await store.requests.command("XRANGE", stream, "-", "+")
    ]
    return [(line["who"], line["what"], line["detail"]) for line in entries]


async def test_who_is_added_signs_in(office: OperatorAdmin, door: SignIn) -> None:
    """With the password that was given, or the one that was drawn and is returned by this call alone."""
    assert await door.has_no_operators()
    given = await office.add_operator("ann", OperatorRole.OPERATOR, PASSWORD, actor=CLI)
    drawn = await office.add_operator("bob", OperatorRole.ADMIN, actor=CLI)
    assert not await door.has_no_operators()
    assert (given.password, drawn.name, drawn.role) == (None, "bob", OperatorRole.ADMIN)
    assert drawn.password is not None
    assert drawn.password.reveal() not in repr(drawn)
    assert (await door.sign_in("ann", PASSWORD, HERE)).operator.role is OperatorRole.OPERATOR
    assert (await door.sign_in("bob", drawn.password, HERE)).operator.role is OperatorRole.ADMIN
    assert [(operator.name, operator.role) for operator in await office.list_operators()] == [
        ("ann", OperatorRole.OPERATOR),
        ("bob", OperatorRole.ADMIN),
    ]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "<b>a</b>", "a\x1b[31m", "a\ud800", "x" * 10_000])
async def test_a_name_that_could_deceive_is_refused(office: OperatorAdmin, store: Store, name: str) -> None:
    """It is told what a name is, and nothing is hashed, kept or repeated."""
    with pytest.raises(InvalidRequest, match="1 to 64") as caught:
        await office.add_operator(name, OperatorRole.VIEWER, PASSWORD, actor=CLI)
    assert len(str(caught.value)) < 200
    assert await store.requests.command("KEYS", "{ops}:*") == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "10 to 256"),
        ("x" * 9, "10 to 256"),
        ("x" * 1_000_000, "10 to 256"),
        ("\ud800" * 12, "10 to 256"),
        ("Ann.Operator", "the name"),
        ("ann\uff0eoperator", "the name"),
    ],
)
async def test_a_password_that_must_not_be_is_refused(
    office: OperatorAdmin, store: Store, hashing: CountingHasher, text: str, complaint: str
) -> None:
    """It is told why, without the password; nothing is hashed or kept. An empty one is never taken for none."""
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        await office.add_operator("ann.operator", OperatorRole.VIEWER, Password(text), actor=CLI)
    assert not text or text not in str(caught.value)
    assert (hashing.made, await store.requests.command("KEYS", "{ops}:*")) == (0, [])
    await office.add_operator("ann.operator", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    with pytest.raises(InvalidRequest, match=complaint):
        await office.set_password("ann.operator", Password(text), actor=CLI)
    assert (hashing.made, await store.requests.command("XLEN", "{ops}:a")) == (1, 1)


async def test_a_name_is_taken_once(office: OperatorAdmin, door: SignIn) -> None:
    """Whoever adds it a second time changes nothing, also where both come at once."""
    both = await asyncio.gather(
        office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI),
        office.add_operator("ann", OperatorRole.ADMIN, OTHER, actor=CLI),
        return_exceptions=True,
    )
    assert sum(isinstance(each, InvalidRequest) for each in both) == 1
    with pytest.raises(InvalidRequest, match="already"):
        await office.add_operator("ann", OperatorRole.ADMIN, actor=CLI)
    [ann] = await office.list_operators()
    assert (await door.sign_in("ann", PASSWORD if ann.role is OperatorRole.VIEWER else OTHER, HERE)).operator == ann


async def test_what_is_not_there_is_told(office: OperatorAdmin) -> None:
    """No verb invents an operator."""
    for name in ("ann", "", "<b>", "x" * 10_000):
        for verb in (office.set_password, office.end_sessions, office.remove_operator):
            with pytest.raises(NotFound, match="no operator of that name"):
                await verb(name, actor=CLI)
        with pytest.raises(NotFound):
            await office.set_role(name, OperatorRole.ADMIN, actor=CLI)


async def test_every_change_ends_all_sessions(office: OperatorAdmin, door: SignIn) -> None:
    """Of that operator, at every browser; others stay signed in. So does adding the same name again."""
    await office.add_operator("root", OperatorRole.ADMIN, PASSWORD, actor=CLI)
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    theirs = (await door.sign_in("root", PASSWORD, HERE)).session

    async def again() -> None:
        await office.remove_operator("ann", actor=CLI)
        await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)

    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: office.set_role("ann", OperatorRole.OPERATOR, actor=CLI),
        lambda: office.set_role("ann", OperatorRole.OPERATOR, actor=CLI),
        lambda: office.end_sessions("ann", actor=CLI),
        lambda: office.set_password("ann", PASSWORD, actor=CLI),
        lambda: office.change_password("ann", PASSWORD, PASSWORD, actor=CLI),
        again,
        lambda: office.remove_operator("ann", actor=CLI),
    ]
    for change in changes:
        sessions = [(await door.sign_in("ann", PASSWORD, HERE)).session for _ in range(2)]
        await change()
        assert [await door.find_session(session) for session in sessions] == [None, None]
    assert await door.find_session(theirs) is not None


async def test_every_change_is_told(office: OperatorAdmin, store: Store) -> None:
    """In the audit, by whoever made it and what it was, and never with a password."""
    await office.add_operator("root", OperatorRole.ADMIN, PASSWORD, actor=CLI)
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    await office.set_role("ann", OperatorRole.ADMIN, actor=CLI)
    await office.set_password("ann", OTHER, actor=CLI)
    await office.end_sessions("ann", actor=CLI)
    await office.change_password("ann", OTHER, PASSWORD, actor=CLI)
    await office.remove_operator("ann", actor=CLI)
    told = [
        ("cli:test", "operator_added", "root: role admin"),
        ("cli:test", "operator_added", "ann: role viewer"),
        ("cli:test", "operator_changed", "ann: role admin"),
        ("cli:test", "operator_changed", "ann: password"),
        ("cli:test", "operator_changed", "ann: logged out everywhere"),
        ("cli:test", "operator_changed", "ann: password"),
        ("cli:test", "operator_removed", "ann"),
    ]
    assert await audit_lines(store) == told


async def test_an_admin_is_left(office: OperatorAdmin) -> None:
    """The last one is neither removed nor made less; where there is none, anything goes."""
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    await office.set_role("ann", OperatorRole.OPERATOR, actor=CLI)
    await office.remove_operator("ann", actor=CLI)
    await office.add_operator("ann", OperatorRole.ADMIN, PASSWORD, actor=CLI)
    await office.add_operator("bob", OperatorRole.OPERATOR, PASSWORD, actor=CLI)
    for verb in (
        office.remove_operator("ann", actor=CLI),
        office.set_role("ann", OperatorRole.VIEWER, actor=CLI),
        office.set_role("ann", OperatorRole.OPERATOR, actor=CLI),
    ):
        with pytest.raises(InvalidRequest, match="last admin"):
            await verb
    await office.set_role("ann", OperatorRole.ADMIN, actor=CLI)
    await office.set_password("ann", OTHER, actor=CLI)
    await office.set_role("bob", OperatorRole.ADMIN, actor=CLI)
    await office.remove_operator("ann", actor=CLI)
    with pytest.raises(InvalidRequest, match="last admin"):
        await office.remove_operator("bob", actor=CLI)


async def test_admins_who_remove_each_other_at_once_leave_one(office: OperatorAdmin) -> None:
    """What each decided is decided anew once the other has come first."""
    for name in ("ann", "bob", "eve"):
        await office.add_operator(name, OperatorRole.ADMIN, PASSWORD, actor=CLI)
    verbs = (
        office.remove_operator("ann", actor=CLI),
        office.set_role("bob", OperatorRole.VIEWER, actor=CLI),
        office.remove_operator("eve", actor=CLI),
    )
    results = await asyncio.gather(*verbs, return_exceptions=True)
    assert sum(isinstance(result, InvalidRequest) for result in results) == 1
    assert [operator.role for operator in await office.list_operators()].count(OperatorRole.ADMIN) == 1


async def test_ones_own_password_needs_the_old_one(office: OperatorAdmin, door: SignIn, store: Store) -> None:
    """A wrong one is refused, counted as an attempt to sign in, and told; the right one makes the new one count."""
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    for _ in range(3):
        with pytest.raises(SignInFailed, match="old password"):
            await office.change_password("ann", OTHER, Password("something else"), actor=CLI)
    assert (
        await audit_lines(store, "{strangers}:a") == [("stranger", "sign_in_refused", "ann changing the password")] * 3
    )
    with pytest.raises(InvalidRequest, match="10 to 256"):
        await office.change_password("ann", PASSWORD, Password("short"), actor=CLI)
    await office.change_password("ann", PASSWORD, OTHER, actor=CLI)
    assert (await door.sign_in("ann", OTHER, HERE)).operator.name == "ann"
    with pytest.raises(SignInFailed):
        await door.sign_in("ann", PASSWORD, HERE)


async def test_guessing_at_the_old_password_is_slowed_down(
    office: OperatorAdmin, door: SignIn, hashing: CountingHasher
) -> None:
    """As at the door, and apart from it: who found a browser open keeps its owner out of nothing by that."""
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    for _ in range(5):
        with pytest.raises(SignInFailed):
            await office.change_password("ann", OTHER, OTHER, actor=CLI)
    checked = len(hashing.checked)
    with pytest.raises(TooManyRequests, match="wait 1 s"):
        await office.change_password("ann", PASSWORD, OTHER, actor=CLI)
    assert len(hashing.checked) == checked
    assert (await door.sign_in("ann", PASSWORD, HERE)).operator.name == "ann"


async def test_a_password_changed_meanwhile_is_not_overwritten(
    office: OperatorAdmin, door: SignIn, monkeypatch: pytest.MonkeyPatch, operators: Operators
) -> None:
    """Who proved the old password just before an admin set a new one does not get the account back by that."""
    await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    read = operators.read_operators
    turns = iter([True])

    async def overtaken() -> object:
        if next(turns, False):
            await office.set_password("ann", OTHER, actor=CLI)
        return await read()

    with monkeypatch.context() as patch:
        patch.setattr(operators, "read_operators", overtaken)
        with pytest.raises(SignInFailed, match="sign in again"):
            await office.change_password("ann", PASSWORD, Password("the intruder's choice"), actor=CLI)
    assert (await door.sign_in("ann", OTHER, HERE)).operator.name == "ann"


async def test_a_record_that_cannot_be_opened_is_told_and_can_be_removed(
    office: OperatorAdmin, door: SignIn, store: Store
) -> None:
    """Under another sealing key nothing is guessed: 503 with the cure, and removing and adding helps."""
    await office.add_operator("ann", OperatorRole.ADMIN, PASSWORD, actor=CLI)
    session = (await door.sign_in("ann", PASSWORD, HERE)).session
    keys = SealingKeys.parse(new_key_text("k2"))
    others = Operators(store, keys)
    office, door = OperatorAdmin(others), SignIn(others, Sessions(store, keys, others))
    verbs: list[Awaitable[object]] = [
        office.list_operators(),
        office.set_role("ann", OperatorRole.VIEWER, actor=CLI),
        office.set_password("ann", actor=CLI),
        office.change_password("ann", PASSWORD, OTHER, actor=CLI),
        door.sign_in("ann", PASSWORD, HERE),
    ]
    for verb in verbs:
        with pytest.raises(Unavailable, match="record"):
            await verb
    assert await door.find_session(session) is None
    await office.remove_operator("ann", actor=CLI)
    await office.add_operator("ann", OperatorRole.ADMIN, PASSWORD, actor=CLI)
    assert (await door.sign_in("ann", PASSWORD, HERE)).operator.role is OperatorRole.ADMIN


async def test_there_are_not_endlessly_many(
    office: OperatorAdmin, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are read for a change, so there is a limit."""
    monkeypatch.setattr("app.service.operators.MAX_OPERATORS", 2)
    for name in ("ann", "bob"):
        await office.add_operator(name, OperatorRole.VIEWER, PASSWORD, actor=CLI)
    with pytest.raises(InvalidRequest, match="2 operators already"):
        await office.add_operator("eve", OperatorRole.VIEWER, PASSWORD, actor=CLI)
    assert await store.requests.command("HLEN", OPERATORS) == 2


async def test_a_change_that_is_always_overtaken_ends(
    office: OperatorAdmin, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused for now, not tried for ever."""

    async def overtaken(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(operators, "write_operator", overtaken)
    with pytest.raises(Unavailable, match="try again"):
        await office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI)


async def test_without_redis_nothing_is_said_to_be_done(operators: Operators, store: Store, door: SignIn) -> None:
    """Each verb is refused with 503."""
    office = OperatorAdmin(operators)

    async def gone(*_: object) -> object:
        raise Unavailable("away")

    store.requests.pipeline = gone  # type: ignore[method-assign, assignment]
    verbs: list[Awaitable[object]] = [
        office.add_operator("ann", OperatorRole.VIEWER, PASSWORD, actor=CLI),
        office.list_operators(),
        office.remove_operator("ann", actor=CLI),
        door.sign_in("ann", PASSWORD, HERE),
        door.has_no_operators(),
    ]
    for verb in verbs:
        with pytest.raises(Refusal) as caught:
            await verb
        assert caught.value.status == 503
