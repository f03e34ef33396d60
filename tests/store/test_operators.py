from __future__ import annotations

import pytest

from app.model.actors import Actor
from app.model.operators import Operator, OperatorRole
from app.model.secrets import PasswordHash
from app.store.audit import Event, EventKind
from app.store.operators import Operators, StoredOperator
from app.store.redis_keys import OPERATORS
from app.store.sealing import CannotOpen, SealingKeys
from app.store.store import Store
from tests.sealing_keys import new_key_text

ANN = Operator("ann", OperatorRole.VIEWER, 1)
HASH = PasswordHash("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$kept-hash")
ADDED = Event(Actor("cli:test"), EventKind.OPERATOR_ADDED, "ann")
CHANGED = Event(Actor("cli:test"), EventKind.OPERATOR_CHANGED, "ann")
REMOVED = Event(Actor("cli:test"), EventKind.OPERATOR_REMOVED, "ann")


async def put(operators: Operators, operator: Operator = ANN, act: Event = ADDED) -> StoredOperator:
    """Write an operator's record, and return it as it is read."""
    assert await operators.write_operator(await operators.read_operators(), operator, HASH, event=act)
    account = await operators.find_operator(operator.name)
    assert account is not None
    return account


async def test_what_is_written_is_read(operators: Operators) -> None:
    """By name and all together; nobody is there until somebody was added."""
    assert not await operators.has_operators()
    assert await operators.find_operator("ann") is None
    account = await put(operators)
    assert (account.operator, account.hash) == (ANN, HASH)
    assert await operators.has_operators()
    roll = await operators.read_operators()
    assert (roll.accounts, roll.epoch) == ({"ann": account}, account.epoch)
    assert HASH.reveal() not in repr(roll)


async def test_a_change_overtaken_by_another_is_not_written(operators: Operators, store: Store) -> None:
    """What was decided by one reading is written only while all of it holds; the audit has one line a change."""
    first = await operators.read_operators()
    assert await operators.write_operator(first, ANN, HASH, event=ADDED)
    for operator in (ANN, Operator("bob", OperatorRole.ADMIN, 2)):
        assert not await operators.write_operator(first, operator, HASH, event=ADDED)
        assert not await operators.write_operator(first, operator, None, event=REMOVED)
    assert set((await operators.read_operators()).accounts) == {"ann"}
    assert await store.requests.command("XLEN", "{ops}:a") == 1


async def test_an_epoch_never_comes_back(operators: Operators, store: Store) -> None:
    """It rises with each change of anybody, also over a removal and a clock that is set back by a day."""
    epochs = []
    for shift_ms in (0, 0, 86_400_000, -86_400_000, 0):
        store.clock.shift_ms = shift_ms
        epochs.append((await put(operators)).epoch)
        epochs.append((await put(operators, act=CHANGED)).epoch)
        assert await operators.write_operator(await operators.read_operators(), ANN, None, event=REMOVED)
        assert await operators.find_operator("ann") is None
    assert epochs == sorted(set(epochs))


async def test_whoever_writes_to_redis_makes_nobody_an_admin(
    operators: Operators, store: Store, keys: SealingKeys
) -> None:
    """A record moved to another name, under another epoch, from another server or made up does not open."""
    await put(operators)
    await put(operators, Operator("root", OperatorRole.ADMIN, 1))
    text = await store.requests.command("HGET", OPERATORS, "root")
    epoch, _, sealed = text.partition(" ")
    foreign = Operators(store, SealingKeys.parse(new_key_text("k1")))
    assert await foreign.write_operator(await operators.read_operators(), ANN, HASH, event=CHANGED)
    stolen = await store.requests.command("HGET", OPERATORS, "ann")
    as_key = keys.seal(HASH, "api-key", "ann", epoch)
    for forged in (text, f"{int(epoch) + 1} {sealed}", stolen, f"{epoch} {as_key}", "", " ", "1", "x y", epoch):
        await store.requests.command("HSET", OPERATORS, "ann", forged)
        if forged:
            with pytest.raises(CannotOpen):
                await operators.find_operator("ann")
        assert (await operators.read_operators()).accounts["ann"] is None
        assert (await operators.read_operators()).accounts["root"] is not None


async def test_another_hash_of_the_same_password_ends_nothing(operators: Operators) -> None:
    """It is kept under the same epoch, and not if the record was changed meanwhile."""
    account, other = await put(operators), PasswordHash("$argon2id$other")
    await operators.rehash_operator(account, other)
    now = await operators.find_operator("ann")
    assert now is not None
    assert (now.hash, now.epoch) == (other, account.epoch)
    changed = await put(operators, act=CHANGED)
    await operators.rehash_operator(now, other)
    assert await operators.find_operator("ann") == changed
    assert await operators.write_operator(await operators.read_operators(), ANN, None, event=REMOVED)
    await operators.rehash_operator(changed, other)
    assert await operators.find_operator("ann") is None
