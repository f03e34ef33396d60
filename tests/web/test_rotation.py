from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.errors import InvalidRequest
from app.model.devices import Algorithm
from app.service.client_credentials import Assertion
from app.service.registry import MAX_GRACE_S, AddedDevice, Registry
from app.store.redis_keys import Shard
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.web.conftest import MakeCaller, OwnCloud

HOUR_S = 3600
GRACE_S = 300
"""One that a test waits out, by the server's clock alone: the cloud bears with a clock that is so far off."""


def rotated(caller: Caller, added: AddedDevice) -> Caller:
    """Return the device with its new key."""
    key = added.secret or added.private_key
    assert key is not None
    return replace(caller, key=key.reveal(), algorithm=added.device.algorithm.value)


async def let_in(caller: Caller) -> bool:
    """Return whether a device is let in, by each method of its key alike; its clock is the server's."""
    now_s = int(time.time()) + server_shift_s(caller)
    answers = [await caller.token(caller.assertion(exp=now_s + 120))]
    if caller.algorithm == "HS256":
        answers.append(await caller.token_by_basic())
    assert {answer.status for answer in answers} in ({200}, {401})
    return answers[0].status == 200


def server_shift_s(caller: Caller) -> int:
    """Return how far the clock of the caller's server is moved."""
    assert isinstance(caller.client, TestClient)
    app: Any = caller.client.app
    shift_ms: int = app[SERVICES].stores.redis.clock.shift_ms
    return shift_ms // 1000


async def test_with_grace_both_keys_are_good_and_nothing_is_revoked(
    caller: Caller, registry: Registry, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """At every instance, and what the device holds goes on being active."""
    token = (await caller.token()).body
    added, revoked = await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI)
    new = rotated(caller, added)
    assert revoked == 0
    for each in (caller, new, replace(caller, client=other_server), replace(new, client=other_server)):
        assert await let_in(each)
    assert (await new.introspect(token["handle"])).body["active"] is True
    assert await cloud.calls("RevokeToken") == {}


async def test_without_grace_the_old_key_is_useless_at_once(caller: Caller, registry: Registry) -> None:
    """And all that the device held is revoked, which is what a rotation does when nothing else is said."""
    token = (await caller.token()).body
    added, revoked = await registry.rotate_key(caller.client_id, actor=CLI)
    assert (revoked, added.device.grace_until_ms) == (1, 0)
    assert not await let_in(caller)
    assert await let_in(rotated(caller, added))
    assert (await rotated(caller, added).introspect(token["handle"])).body == {"active": False}


async def test_when_the_grace_is_over_the_old_key_is_refused_though_it_lies_in_the_record(
    caller: Caller, registry: Registry, server: TestClient[Any, Any], other_server: TestClient[Any, Any]
) -> None:
    """Time alone ends it: under a record cached before, and under one read after."""
    new = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=GRACE_S, actor=CLI))[0])
    assert await let_in(caller)
    for app in (server.app, other_server.app):
        app[SERVICES].stores.redis.clock.shift_ms = (GRACE_S + 1) * 1000
    for client in (server, other_server):
        assert not await let_in(replace(caller, client=client))
        assert await let_in(replace(new, client=client))
    assert (await registry.get_device(caller.client_id)).grace_until_ms == 0
    key = Shard.of(caller.client_id).device(caller.client_id)
    assert await server.app[SERVICES].stores.redis.requests.command("HEXISTS", key, "previous") == 1


async def test_an_old_key_is_refused_by_redis_clock_too(
    caller: Caller, registry: Registry, server: TestClient[Any, Any]
) -> None:
    """An instance whose clock stood still over the end of the grace lets no assertion of the old key in.

    Not even one that does not expire before: it is good no longer than its key.
    """
    new = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=GRACE_S, actor=CLI))[0])
    assert await let_in(caller)
    clock = server.app[SERVICES].stores.redis.clock
    slept_s = GRACE_S + 1

    async def at_rest(_: str) -> tuple[int, int]:
        return int(time.time()) - slept_s, 0

    clock.shift_ms = slept_s * 1000
    await clock.learn(at_rest)
    late = int(time.time()) + 300
    answer = await caller.token(caller.assertion(exp=late))
    assert (answer.status, answer.body["error"]) == (401, "invalid_client")
    assert "expired" in answer.body["error_description"]
    assert (await new.token(new.assertion(exp=late))).status == 200


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/introspect", "/oauth/revoke"])
async def test_every_endpoint_verifies_again_under_the_record_of_now(
    caller: Caller, registry: Registry, path: str
) -> None:
    """A key in its grace is accepted though the cached record knows of no rotation; a key without is not."""
    token = (await caller.token()).body["handle"]

    async def status(each: Caller) -> int:
        return (await each.post(path, each.form(token=token))).status

    second = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI))[0])
    assert await status(caller) == 200
    third = rotated(caller, (await registry.rotate_key(caller.client_id, actor=CLI))[0])
    assert [await status(each) for each in (caller, second, third)] == [401, 401, 200]


async def test_a_second_rotation_drops_the_oldest_key(caller: Caller, registry: Registry) -> None:
    """Two keys are good at most, however long the first grace still had."""
    second = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=MAX_GRACE_S, actor=CLI))[0])
    third = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI))[0])
    assert [await let_in(each) for each in (caller, second, third)] == [False, True, True]
    fourth = rotated(caller, (await registry.rotate_key(caller.client_id, actor=CLI))[0])
    assert [await let_in(each) for each in (second, third, fourth)] == [False, False, True]


async def test_disabling_ends_the_grace(caller: Caller, registry: Registry) -> None:
    """The old key is not good again when the device is enabled."""
    new = rotated(caller, (await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI))[0])
    await registry.disable_device(caller.client_id, actor=CLI)
    assert [await let_in(caller), await let_in(new)] == [False, False]
    with pytest.raises(InvalidRequest, match="disabled"):
        await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI)
    await registry.enable_device(caller.client_id, actor=CLI)
    assert [await let_in(caller), await let_in(new)] == [False, True]


async def test_a_revoke_and_an_enable_leave_the_grace_as_it_is(caller: Caller, registry: Registry) -> None:
    """Revoking what a device holds says nothing of its keys."""
    await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI)
    await registry.revoke_device(caller.client_id, actor=CLI)
    await registry.enable_device(caller.client_id, actor=CLI)
    assert await let_in(caller)


@pytest.mark.parametrize(
    ("old", "new"),
    [(Algorithm.HS256, Algorithm.ES256), (Algorithm.ES256, Algorithm.EDDSA), (Algorithm.EDDSA, Algorithm.HS256)],
)
async def test_a_rotation_may_change_the_algorithm(
    make_caller: MakeCaller, registry: Registry, old: Algorithm, new: Algorithm
) -> None:
    """Each key is good with its own algorithm and methods alone."""
    before = await make_caller(algorithm=old)
    after = rotated(before, (await registry.rotate_key(before.client_id, algorithm=new, grace_s=HOUR_S, actor=CLI))[0])
    assert [await let_in(before), await let_in(after)] == [True, True]
    if old is Algorithm.HS256:
        assert (await after.token_by_basic(before.key)).status == 200
    last = rotated(before, (await registry.rotate_key(before.client_id, actor=CLI))[0])
    assert last.algorithm == new.value
    assert [await let_in(before), await let_in(after), await let_in(last)] == [False, False, True]


async def test_an_assertion_of_the_old_key_is_good_once(caller: Caller, registry: Registry) -> None:
    """The grace gives no second use."""
    assertion = caller.assertion()
    await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI)
    assert (await caller.token(assertion)).status == 200
    assert (await caller.token(assertion)).status == 401


async def test_whoever_writes_to_redis_cannot_prolong_a_grace_or_bring_a_key_back(
    caller: Caller, registry: Registry, server: TestClient[Any, Any], other_server: TestClient[Any, Any]
) -> None:
    """The old key is sealed with its end, and as an old one: any other end, or place, opens nothing."""
    added, _ = await registry.rotate_key(caller.client_id, grace_s=HOUR_S, actor=CLI)
    store, key = server.app[SERVICES].stores.redis, Shard.of(caller.client_id).device(caller.client_id)
    text, current, previous = await store.requests.command("HMGET", key, "record", "key", "previous")
    assert caller.key not in text + current + previous
    record = json.loads(text)
    longer = json.dumps(record | {"previous_until_ms": record["previous_until_ms"] + 1})
    other = replace(caller, client=other_server)
    for forged in ({"record": longer}, {"previous": current}, {"key": previous}):
        await store.requests.command("HSET", key, *(word for pair in forged.items() for word in pair))
        assert (await other.token()).status == 503
        await store.requests.command("HSET", key, "record", text, "key", current, "previous", previous)
    assert await let_in(other)
    assert await let_in(replace(rotated(caller, added), client=other_server))


async def test_every_refusal_costs_the_same_checks(
    make_caller: MakeCaller, registry: Registry, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown, disabled, wrong-key and just re-keyed: two signature checks and one read, so time shows nothing."""
    plain, disabled, rekeyed = [await make_caller(f"GID_plant@@@d{number}") for number in range(3)]
    await registry.disable_device(disabled.client_id, actor=CLI)
    await registry.rotate_key(rekeyed.client_id, grace_s=HOUR_S, actor=CLI)
    unknown = replace(plain, client_id="GID_plant@@@nobody")
    checks: list[object] = []
    check = Assertion.proven_by

    def counted(self: Assertion, *arguments: Any, **options: Any) -> Any:
        checks.append(arguments)
        return check(self, *arguments, **options)

    monkeypatch.setattr(Assertion, "proven_by", counted)
    for _ in ("nothing cached", "cached"):
        for each in (unknown, plain, rekeyed, replace(disabled, key=plain.key), disabled):
            checks.clear()
            wrong = each if each is disabled else replace(each, key="x" * 40)
            assert (await wrong.token()).status == 401
            assert len(checks) == 2, each.client_id


@pytest.mark.parametrize("grace_s", [-1, MAX_GRACE_S + 1, 10**12])
async def test_a_grace_out_of_range_is_refused_and_changes_nothing(
    caller: Caller, registry: Registry, grace_s: int
) -> None:
    """A month is the most, and before now there is none."""
    with pytest.raises(InvalidRequest, match="30 days"):
        await registry.rotate_key(caller.client_id, grace_s=grace_s, actor=CLI)
    assert await let_in(caller)
