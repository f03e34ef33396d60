from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.errors import InvalidRequest
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service import refusals
from app.service.api_keys import ApiKeyAdmin
from app.service.audit import AuditFilter, AuditLog
from app.service.registry import Registry
from app.store.audit import AuditEntry
from app.store.failures import MAX_BY_CLIENT
from app.store.redis_keys import Shard
from app.store.tokens import Tokens
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import MakeCaller, OwnCloud


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write refusals down sooner than in a second."""
    monkeypatch.setattr(refusals, "WRITE_EVERY_S", 0.01)


@pytest.fixture
def audit_log(server: TestClient[Any, Any]) -> AuditLog:
    """The trail of the server."""
    parts = server.app[SERVICES].stores
    return AuditLog(parts.audit, parts.tokens)


async def told(audit_log: AuditLog, **query: Any) -> list[tuple[str, str]]:
    """Return who did what, the newest first."""
    return [(line.who, line.what) for line in (await audit_log.search_events(AuditFilter(**query))).entries]


async def until_refused(audit_log: AuditLog, count: int, **query: Any) -> list[AuditEntry]:
    """Wait until so many lines of refusals are there."""
    found: list[AuditEntry] = []

    async def there() -> bool:
        found[:] = (await audit_log.search_events(AuditFilter(what="refused", **query))).entries
        return len(found) >= count

    await until(there, f"{count} refusals in the trail")
    return found


async def test_a_token_in_hand_finds_all_that_became_of_it(
    caller: Caller, audit_log: AuditLog, cloud: OwnCloud, server: TestClient[Any, Any]
) -> None:
    """By password, by one of its cloud tokens, or by handle: granted, revoked once however often, confirmed."""
    token = (await caller.token()).body
    await caller.token()
    for _ in range(3):
        assert (await caller.revoke(token["access_token"])).status == 200
    cloud_token = token["mqtt"]["tokens"][0]["token"]
    for held in (token["access_token"], token["handle"], cloud_token, f"  R|{cloud_token}\n"):
        handle = await audit_log.handle_of(Secret(held))
        assert handle == token["handle"], held
        device = f"device:{caller.client_id}"
        assert await told(audit_log, handle=handle) == [
            ("cloud", "confirmed"),
            (device, "revoked"),
            (device, "granted"),
        ]
    for other in ("", "x", "|", "R|", "R|x", "x" * 20_000):
        assert await audit_log.handle_of(Secret(other)) is None


async def test_a_text_of_thousands_of_tokens_is_looked_up_nowhere(
    audit_log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search costs no more than a password's three tokens, whatever is pasted."""

    async def never(*_: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(Tokens, "find_handle", never)
    assert await audit_log.handle_of(Secret("|".join(f"R|{number}" for number in range(2000)))) is None


ANN = Actor("cli:ann")


async def test_operators_and_services_are_named(
    caller: Caller, registry: Registry, audit_log: AuditLog, server: TestClient[Any, Any]
) -> None:
    """Each act has its actor: the operator at the registry, the service that revoked."""
    office = ApiKeyAdmin(server.app[SERVICES].stores.api_keys)
    key = await office.add_api_key("billing", [Right.REVOKE], actor=ANN)
    token = (await caller.token()).body
    headers = {"Authorization": f"Bearer {key.text.reveal()}"}
    await caller.post("/oauth/revoke", {"token": token["handle"]}, headers=headers)
    await registry.rotate_key(caller.client_id, grace_s=60, actor=CLI)
    await registry.disable_device(caller.client_id, actor=CLI)
    await registry.enable_device(caller.client_id, actor=CLI)
    await registry.remove_device(caller.client_id, actor=CLI)
    await office.remove_api_key("billing", actor=ANN)
    assert await told(audit_log, who="cli:ann") == [("cli:ann", "key_removed"), ("cli:ann", "key_added")]
    assert await told(audit_log, who="key:billing") == [("key:billing", "revoked")]
    acts = ["removed", "enabled", "disabled", "rotated", "added"]
    assert await told(audit_log, who="cli:test") == [("cli:test", f"device_{act}") for act in acts]


async def test_a_refusal_names_whoever_proved_it_and_no_other(caller: Caller, audit_log: AuditLog) -> None:
    """A proven device's is its own; one that merely names a device is a stranger's, and flushes nothing of it."""
    await caller.token(scope="pub:elsewhere/x")
    [own] = await until_refused(audit_log, 1, who=f"device:{caller.client_id}")
    assert (own.client_id, own.detail.startswith("invalid_scope: ")) == (caller.client_id, True)
    await replace(caller, key="x" * 40).token()
    await caller.token_by_basic("x" * 40)
    assertion = caller.assertion()
    for _ in range(2):
        await caller.token(assertion)
    await caller.post("/oauth/introspect", {"token": "x"}, headers={"Authorization": "Bearer nonsense"})

    async def all_told() -> bool:
        strangers = (await audit_log.search_events(AuditFilter(what="refused", who="stranger"))).entries
        kinds = {line.detail.split(" (")[0]: line.client_id for line in strangers}
        return set(kinds.values()) == {caller.client_id, ""} and "invalid_client: jti replayed" in kinds

    await until(all_told, "the strangers' refusals in the trail")
    assert len(await told(audit_log, what="refused", who=f"device:{caller.client_id}")) == 1


async def test_a_flood_of_refusals_is_few_lines(
    caller: Caller, audit_log: AuditLog, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal ones are counted in one line, and of different ones only so many are written in one go."""
    monkeypatch.setattr(refusals, "WRITE_EVERY_S", 0.5)
    monkeypatch.setattr(refusals, "MOST_AT_ONCE", 5)
    await caller.token_by_basic("first")
    await until_refused(audit_log, 1)
    await asyncio.gather(*(caller.token_by_basic("x" * 40) for _ in range(MAX_BY_CLIENT - 1)))
    await asyncio.gather(*(replace(caller, client_id=f"GID_flood@@@{n}").token_by_basic("x" * 40) for n in range(20)))
    lines = await until_refused(audit_log, 3)
    assert len(lines) <= 1 + 5 + 1
    assert any(f"({MAX_BY_CLIENT - 1} times)" in line.detail for line in lines)
    assert any("16 more refusals" in line.detail for line in lines)


async def test_a_rogue_device_flushes_nothing_of_what_happened(
    caller: Caller, audit_log: AuditLog, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusals are written together, one entry for each time of writing, and none beside grants and revokes."""
    writing = asyncio.Event()
    sleep = asyncio.sleep

    async def wait(delay_s: float) -> None:
        await (writing.wait() if delay_s == refusals.WRITE_EVERY_S else sleep(delay_s))

    monkeypatch.setattr(refusals, "WRITE_EVERY_S", 12_345.0)
    monkeypatch.setattr(asyncio, "sleep", wait)
    await caller.token_by_basic("x" * 40)
    await until_refused(audit_log, 1)
    await asyncio.gather(*(caller.token(scope=f"pub:elsewhere/{number}") for number in range(20)))
    writing.set()
    [line] = await until_refused(audit_log, 1, who=f"device:{caller.client_id}")
    assert "(20 times)" in line.detail
    kept = await server.app[SERVICES].stores.redis.requests.command("XLEN", Shard.of(caller.client_id).audit)
    assert kept == 1  # that it was added


async def test_no_line_holds_a_secret(
    caller: Caller, make_caller: MakeCaller, audit_log: AuditLog, server: TestClient[Any, Any]
) -> None:
    """No token, no assertion, no key: tokens by handle, keys by name."""
    office = ApiKeyAdmin(server.app[SERVICES].stores.api_keys)
    key = (await office.add_api_key("billing", [Right.INTROSPECT], actor=CLI)).text.reveal()
    assertion = caller.assertion()
    token = (await caller.token(assertion)).body
    await caller.token(assertion)
    await caller.token_by_basic(f"{caller.key}x")
    await caller.post("/oauth/revoke", {"token": token["handle"]}, headers={"Authorization": f"Bearer {key}"})
    await caller.post("/oauth/revoke", {"token": token["handle"]}, headers={"Authorization": f"Bearer {key}x"})
    await until_refused(audit_log, 3)
    text = repr((await audit_log.search_events(AuditFilter())).entries)
    for secret in (assertion, caller.key, key, key[-43:], *(each["token"] for each in token["mqtt"]["tokens"])):
        assert secret not in text


async def test_a_line_stays_one_line(caller: Caller, audit_log: AuditLog) -> None:
    """What a caller sends can break no table and forge no line, and is cut."""
    await caller.token(scope="pub:a\nb\x1b[31m" + "x" * 3000)
    [line] = await until_refused(audit_log, 1)
    assert line.detail.isprintable()
    assert len(line.detail) <= 250
    await caller.token_by_basic("x" * 40, client_id="x" * 3000)


async def test_nothing_is_awaited_when_redis_takes_no_lines(
    caller: Caller, server: TestClient[Any, Any], audit_log: AuditLog
) -> None:
    """A Redis that is full refuses the line, and the caller gets the answer he would have got."""
    store = server.app[SERVICES].stores.redis
    await store.requests.command("CONFIG", "SET", "maxmemory", 1)
    try:
        assert (await caller.token_by_basic("x" * 40)).status == 401
    finally:
        await store.requests.command("CONFIG", "SET", "maxmemory", 0)


BAD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"what": "nonsense"}, {}),
    ({"handle": "nonsense"}, {}),
    ({"handle": "99-" + "a" * 22}, {}),
    ({"client_id": "x" * 65}, {}),
    ({"who": "x" * 1000}, {}),
    ({"since_ms": -1}, {}),
    ({"until_ms": 2**63}, {}),
    ({"since_ms": 2, "until_ms": 2}, {}),
    ({}, {"cursor": "x"}),
    ({}, {"cursor": "1-1-99"}),
    ({}, {"limit": 0}),
    ({}, {"limit": 1001}),
]


@pytest.mark.parametrize(("query", "options"), BAD)
async def test_a_malformed_search_is_refused(
    audit_log: AuditLog, query: dict[str, Any], options: dict[str, Any]
) -> None:
    """With a sentence, and without a look into Redis."""
    with pytest.raises(InvalidRequest):
        await audit_log.search_events(AuditFilter(**query), **options)


async def test_a_search_by_time_takes_what_lies_between(caller: Caller, audit_log: AuditLog) -> None:
    """From since on, and before until; a time far off finds nothing and breaks nothing."""
    [line] = (await audit_log.search_events(AuditFilter())).entries
    assert json.loads(json.dumps(line.at_ms)) == line.at_ms
    assert len(await told(audit_log, since_ms=line.at_ms, until_ms=line.at_ms + 1)) == 1
    assert await told(audit_log, until_ms=line.at_ms) == []
    assert await told(audit_log, since_ms=line.at_ms + 1) == []
    assert await told(audit_log, since_ms=2**62) == []
    assert len(await told(audit_log, until_ms=2**62)) == 1
