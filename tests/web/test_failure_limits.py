from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.loop_share import LoopShare
from app.model.api_keys import Right
from app.model.devices import Algorithm
from app.service import failure_limits
from app.service.audit import AuditFilter
from app.service.authenticate import BURST_S, SHARE
from app.service.registry import Registry
from app.settings import Settings
from app.store.constants import FAILURES_KEPT_MS
from app.store.failures import MAX_BY_ADDRESS, MAX_BY_CLIENT
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Answer, Caller, read
from tests.waiting import until
from tests.web.conftest import MakeCaller, connected_server

WRONG = "x" * 40


def denied(answer: Answer) -> None:
    """Check for the refusal of a wrong key."""
    assert (answer.status, answer.body["error"]) == (401, "invalid_client"), answer


def slowed(answer: Answer) -> int:
    """Check for the refusal beyond a limit; returns the seconds to wait."""
    assert (answer.status, answer.body["error"]) == (429, "temporarily_unavailable"), answer
    wait_s = int(answer.headers["Retry-After"])
    assert answer.body["error_description"] == (
        f"too many failed authentications: wait {wait_s} s, then authenticate with the right key"
    )
    assert 1 <= wait_s <= FAILURES_KEPT_MS / 1000
    return wait_s


def another(caller: Caller, number: int) -> Caller:
    """Return an unknown client ID, with a key that no device has."""
    return replace(caller, client_id=f"GID_plant@@@unknown{number}", key=WRONG)


def at(caller: Caller, server: TestClient[Any, Any]) -> Caller:
    """Return the same device as a caller of another instance."""
    return replace(caller, client=server)


async def fail(caller: Caller, times: int) -> list[Answer]:
    """Send wrong secrets, all at once."""
    return await asyncio.gather(*(caller.token_by_basic(WRONG) for _ in range(times)))


async def use_up_address(caller: Caller) -> None:
    """Fail from this address up to its limit, each time under another client ID."""
    for answer in await asyncio.gather(*(another(caller, n).token_by_basic() for n in range(MAX_BY_ADDRESS))):
        denied(answer)


async def test_beyond_the_limit_of_a_client_id_a_wrong_key_waits_and_the_right_one_does_not(
    caller: Caller, server: TestClient[Any, Any], other_server: TestClient[Any, Any]
) -> None:
    """A guesser is slowed down at all instances together, and keeps the device itself out at none of them."""
    there = at(caller, other_server)
    for answer in [*await fail(caller, 6), *await fail(there, 4)]:
        denied(answer)
    for each in (caller, there):
        slowed(await each.token_by_basic(WRONG))
        slowed(await each.token(each.assertion(key=WRONG)))
        assert (await each.token_by_basic()).status == 200
        assert (await each.token()).status == 200
    wait_s = slowed(await caller.token_by_basic(WRONG))
    for instance in (server, other_server):
        instance.app[SERVICES].stores.redis.clock.shift_ms += wait_s * 1000
    for each in (caller, there):
        denied(await each.token_by_basic(WRONG))


async def test_failures_that_come_all_at_once_are_all_counted(caller: Caller) -> None:
    """A guesser gains nothing by sending many at once."""
    answers = await fail(caller, 40)
    assert sorted(answer.status for answer in answers) == [401] * MAX_BY_CLIENT + [429] * 30


@pytest.mark.parametrize("algorithm", [Algorithm.HS256, Algorithm.ES256])
async def test_unknown_disabled_and_known_client_ids_are_slowed_alike(
    make_caller: MakeCaller, registry: Registry, algorithm: Algorithm
) -> None:
    """An outsider does not learn from the limit which client IDs exist, neither by words nor by numbers."""
    known = await make_caller("GID_plant@@@known", algorithm)
    cached = await make_caller("GID_plant@@@cached", algorithm)
    assert (await cached.token()).status == 200
    disabled = await make_caller("GID_plant@@@disabled", algorithm)
    await registry.disable_device(disabled.client_id, actor=CLI)
    stranger = await make_caller("GID_plant@@@stranger", algorithm)
    seen = []
    for caller in (known, cached, disabled, replace(stranger, client_id="GID_plant@@@missing")):
        wrong = replace(caller, key=stranger.key)
        answers = [await wrong.token() for _ in range(MAX_BY_CLIENT + 2)]
        seen.append([(answer.status, re.sub(r"\d+ s", "N s", json.dumps(answer.body))) for answer in answers])
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert [status for status, _ in seen[0]] == [401] * MAX_BY_CLIENT + [429] * 2


async def test_an_address_is_slowed_whatever_it_names(
    caller: Caller, server: TestClient[Any, Any], other_server: TestClient[Any, Any]
) -> None:
    """Another client ID or API key at each try gains an attacker nothing; right keys are let in from there even so."""
    added = await server.app[SERVICES].api_keys.add_api_key("s", [Right.INTROSPECT, Right.ADMIN], actor=CLI)
    token = (await caller.token()).body["access_token"]
    await use_up_address(caller)
    for instance in (server, other_server):
        slowed(await another(at(caller, instance), 1000).token_by_basic())
        slowed(await at(caller, instance).token("malformed"))
        for key in ("mts_malformed", added.text.reveal()[:-4] + "0000"):
            bearer = {"Authorization": f"Bearer {key}"}
            slowed(await at(caller, instance).post("/oauth/introspect", {"token": token}, headers=bearer))
            slowed(await at(caller, instance).post("/oauth/revoke", {"token": token}, headers=bearer))
            async with instance.get("/api/devices", headers=bearer) as response:
                slowed(await read(response))
        right = {"Authorization": f"Bearer {added.text.reveal()}"}
        assert (await at(caller, instance).post("/oauth/introspect", {"token": token}, headers=right)).status == 200
        async with instance.get("/api/devices", headers=right) as response:
            assert response.status == 200
        assert (await at(caller, instance).token()).status == 200
        assert (await at(caller, instance).introspect(token)).body["active"] is True


async def test_wrong_api_keys_are_counted_by_address(caller: Caller, server: TestClient[Any, Any]) -> None:
    """Guesses at API keys are failed authentications as well."""

    async def guess(number: int) -> int:
        headers = {"Authorization": f"Bearer mts_{number:016x}_{'A' * 43}"}
        async with server.get("/api/devices", headers=headers) as response:
            return response.status

    statuses = await asyncio.gather(*(guess(number) for number in range(MAX_BY_ADDRESS + 20)))
    assert sorted(statuses) == [401] * MAX_BY_ADDRESS + [429] * 20
    slowed(await caller.token_by_basic(WRONG))


@pytest.fixture
async def behind(settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    """An instance that trusts the proxies at 127.0.0.1."""
    async with connected_server(settings.model_copy(update={"trusted_proxies": "127.0.0.1, 10.0.0.0/8"})) as client:
        yield client


async def from_address(caller: Caller, forwarded: str, secret: str = WRONG) -> Answer:
    """Send a secret through a trusted proxy, in the name of a client ID that is used only once."""
    headers = another(caller, time.monotonic_ns()).basic(secret) | {"X-Forwarded-For": forwarded}
    return await caller.post("/oauth/token", {"grant_type": "client_credentials"}, headers=headers)


@pytest.mark.parametrize(
    ("attacker", "same", "others"),
    [
        (
            "198.51.100.7",
            ["198.51.100.7", "::ffff:198.51.100.7", "198.51.100.7:99", "1.1.1.1, 198.51.100.7, 10.0.0.9"],
            "198.51.100.8",
        ),
        ("2001:db8:1:2::1", ["2001:db8:1:2::1", "2001:db8:1:2:f::9", "[2001:db8:1:2::3]:99"], "2001:db8:1:3::1"),
    ],
)
async def test_the_address_is_that_of_the_client_behind_trusted_proxies(
    caller: Caller, behind: TestClient[Any, Any], attacker: str, same: list[str], others: str
) -> None:
    """An attacker uses up their own limit: no other client's by writing a header, no second one by other spellings."""
    here = at(caller, behind)
    for answer in await asyncio.gather(*(from_address(here, attacker) for _ in range(MAX_BY_ADDRESS))):
        denied(answer)
    for spelled in same:
        slowed(await from_address(here, spelled))
    denied(await from_address(here, others))
    denied(await from_address(here, f"{attacker}, {others}"))


async def test_a_trusted_proxy_is_never_slowed(caller: Caller, behind: TestClient[Any, Any]) -> None:
    """What it forwards without a usable address counts for the client ID alone: behind it may be everyone."""
    here = at(caller, behind)
    sent = ["", "unknown", "10.1.2.3", "198.51.100.7, unknown"] * (MAX_BY_ADDRESS // 4 + 5)
    for answer in await asyncio.gather(*(from_address(here, forwarded) for forwarded in sent)):
        denied(answer)
    assert [answer.status for answer in await fail(here, MAX_BY_CLIENT + 1)].count(429) == 1


async def test_a_right_signature_is_never_slowed(caller: Caller) -> None:
    """A device with a wrong clock, or that sends an assertion again, learns so also while its client ID is attacked.

    What it sends is not counted either.
    """
    used = caller.assertion()
    assert (await caller.token(used)).status == 200
    for _ in range(MAX_BY_CLIENT):
        assert "expired" in (await caller.token(caller.assertion(exp=1))).body["error_description"]
        assert "already used" in (await caller.token(used)).body["error_description"]
    for answer in await fail(caller, MAX_BY_CLIENT):
        denied(answer)
    slowed(await caller.token_by_basic(WRONG))
    answer = await caller.token(caller.assertion(exp=1))
    assert (answer.status, "expired" in answer.body["error_description"]) == (401, True)


async def test_a_rotated_key_is_right_at_once_beyond_the_limit(caller: Caller, registry: Registry) -> None:
    """The record that an instance knows may be an old one: the limit is not looked at before the fresh one is."""
    assert (await caller.token()).status == 200
    await fail(caller, MAX_BY_CLIENT + 1)
    rotated, _ = await registry.rotate_key(caller.client_id, actor=CLI)
    assert rotated.secret is not None
    assert (await replace(caller, key=rotated.secret.reveal()).token()).status == 200
    slowed(await caller.token())


class UsedUpShare(LoopShare):
    """A share of which nothing is left until a test says so."""

    is_used_up = True

    def _rest_s(self) -> float:
        return 0.005 if self.is_used_up else super()._rest_s()


async def test_beyond_the_bound_strangers_are_refused_and_a_device_under_attack_is_not(
    caller: Caller, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood delays strangers first, and then refuses them with a time to come back, all alike.

    The device whose client ID is attacked as well waits its turn, and is not refused. A flood of strangers does not
    delay it.
    """
    monkeypatch.setattr(failure_limits, "MAX_UNDER_WAY", 20)
    await fail(caller, MAX_BY_CLIENT + 1)
    authenticator = server.app[SERVICES].issuer._authenticator
    strangers = authenticator._strangers = UsedUpShare(SHARE, burst_s=BURST_S)
    flood = [asyncio.create_task(another(caller, number).token_by_basic()) for number in range(20)]
    await until_waiting(strangers, 20)
    for number in range(20, 25):
        assert slowed(await another(caller, number).token_by_basic()) == failure_limits.BUSY_S
    assert (await caller.token()).status == 200
    attacked = authenticator._attacked = UsedUpShare(SHARE, burst_s=BURST_S)
    own = [asyncio.create_task(caller.token()) for _ in range(30)]
    await until_waiting(attacked, 30)
    attacked.is_used_up = False
    assert {(await each).status for each in own} == {200}
    assert strangers.waiting == 20
    strangers.is_used_up = False
    for each in flood:
        denied(await each)


async def until_waiting(share: LoopShare, count: int) -> None:
    """Wait until so many checks wait for their turn."""

    async def are_waiting() -> bool:
        return share.waiting == count

    await until(are_waiting, f"{count} checks that wait for their turn")


async def test_a_device_that_is_not_attacked_waits_for_nothing(
    make_caller: MakeCaller, server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known devices are checked before strangers: also where floods have used up all that they may.

    One that this instance has not seen yet is known as soon as its record is read. A wrong key under a known client ID
    is refused as a stranger's is, so that the flood does not show which client IDs exist.
    """
    monkeypatch.setattr(failure_limits, "MAX_UNDER_WAY", 0)
    cached, cold = await make_caller("GID_plant@@@cached"), await make_caller("GID_plant@@@cold")
    assert (await cached.token()).status == 200
    authenticator = server.app[SERVICES].issuer._authenticator
    authenticator._strangers = authenticator._attacked = UsedUpShare(SHARE, burst_s=BURST_S)
    for caller in (cached, cold):
        assert (await caller.token()).status == 200
        assert slowed(await caller.token_by_basic(WRONG)) == failure_limits.BUSY_S
    assert slowed(await another(cached, 1).token_by_basic()) == failure_limits.BUSY_S


async def test_a_turn_that_does_not_come_by_the_deadline_is_a_refusal_with_a_time_to_come_back(
    settings: Settings, caller: Caller, make_caller: MakeCaller
) -> None:
    """No request waits longer than it may, however much others send.

    The device whose client ID is attacked has the right key, which was not checked: the answer does not say that
    it failed. A wrong key and an unknown client ID get the same answer.
    """
    async with connected_server(settings.model_copy(update={"request_deadline_s": 0.6})) as client:
        here = at(caller, client)
        authenticator = client.app[SERVICES].issuer._authenticator

        async def is_slowed() -> bool:
            return (await here.token_by_basic(WRONG)).status == 429

        await fail(caller, MAX_BY_CLIENT + 1)
        await until(is_slowed, "the instance to know of the limit")
        authenticator._strangers = authenticator._attacked = UsedUpShare(SHARE, burst_s=BURST_S)
        cold = await make_caller("GID_plant@@@cold")
        for waiting in (here, at(replace(cold, key=WRONG), client), another(here, 1)):
            answer = await waiting.token()
            assert (answer.status, answer.body["error"]) == (503, "temporarily_unavailable"), answer
            assert answer.body["error_description"] == "the server is busy: ask again"
            assert answer.headers["Retry-After"] == str(failure_limits.BUSY_S)


async def test_limits_are_in_the_audit_as_strangers(caller: Caller, server: TestClient[Any, Any]) -> None:
    """An operator sees who was slowed down and from where, and the device is not blamed for what others sent."""
    await fail(caller, MAX_BY_CLIENT + 1)
    audit_log = server.app[SERVICES].audit_log

    async def recorded() -> bool:
        page = await audit_log.search_events(AuditFilter(client_id=caller.client_id))
        return any(
            "10 a minute of this client ID" in entry.detail and entry.who == "stranger" for entry in page.entries
        )

    await until(recorded, "the refusal in the audit")
