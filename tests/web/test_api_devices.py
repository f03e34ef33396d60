"""``/api/devices``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.devices import Algorithm
from app.service.verification_keys import new_pair
from tests.callers import Caller
from tests.web.conftest import ISSUER
from tests.web.operators import Operator

D1 = "GID_plant@@@d1"


@pytest.fixture
async def operator(server: TestClient[Any, Any]) -> Operator:
    """An operator at the server."""
    return await Operator.of(server)


async def test_a_device_from_its_registration_to_its_removal(
    operator: Operator, server: TestClient[Any, Any], other_server: TestClient[Any, Any]
) -> None:
    """Added, disabled, enabled, re-keyed with and without grace, removed: each counts at once, at each instance."""
    added = await operator.post("/api/devices", {"client_id": D1, "note": "hall 7", "attributes": {"line": "l1"}})
    assert (added.status, set(added.body)) == (201, {"client_id", "secret"})
    assert added.headers["Cache-Control"] == "no-store"
    shown = await operator.get(added.headers["Location"])
    assert shown.body["created_at_ms"] > 0
    assert {name: shown.body[name] for name in ("client_id", "role", "algorithm", "note", "disabled")} == {
        "client_id": D1,
        "role": "",
        "algorithm": "HS256",
        "note": "hall 7",
        "disabled": False,
    }
    assert added.body["secret"] not in str(shown.body)

    caller = Caller(server, ISSUER, D1, added.body["secret"])
    elsewhere = replace(caller, client=other_server)
    held = (await caller.token()).body
    here = f"/api/devices/{D1}"
    assert (await operator.post(f"{here}/disable")).body == {"client_id": D1, "revoked": 1}
    assert (await operator.get(here)).body["disabled"] is True
    assert [(await each.token()).status for each in (caller, elsewhere)] == [401, 401]
    assert (await operator.post(f"{here}/enable")).body == {"client_id": D1, "revoked": 0}
    renewed = (await elsewhere.token()).body
    assert renewed["access_token"] != held["access_token"]

    kept = await operator.post(f"{here}/rotate", {"grace_s": 3600})
    assert (kept.body["revoked"], kept.body["grace_until_ms"] > 0) == (0, True)
    assert [(await each.token()).status for each in (caller, replace(elsewhere, key=kept.body["secret"]))] == [200, 200]
    at_once = await operator.post(f"{here}/rotate", {"algorithm": "ES256"})
    assert set(at_once.body) == {"client_id", "private_key", "revoked", "grace_until_ms"}
    assert (at_once.body["revoked"], at_once.body["grace_until_ms"]) == (2, 0)
    assert [(await each.token()).status for each in (caller, replace(elsewhere, key=kept.body["secret"]))] == [401, 401]
    signing = replace(caller, key=at_once.body["private_key"], algorithm="ES256")
    assert (await signing.token()).status == 200

    removed = await operator.ask("DELETE", here)
    assert removed.body == {"client_id": D1, "revoked": 1}
    for method, path in (("GET", here), ("DELETE", here), ("POST", f"{here}/disable"), ("POST", f"{here}/rotate")):
        assert (await operator.ask(method, path)).status == 404
    acts = [line for line in await operator.all("/api/audit", client_id=D1) if line["what"].startswith("device_")]
    assert {line["who"] for line in acts} == {"key:ops"}
    assert [line["what"].removeprefix("device_") for line in reversed(acts)] == [
        "added",
        "disabled",
        "enabled",
        "rotated",
        "rotated",
        "removed",
    ]


async def test_devices_are_listed_page_by_page(operator: Operator) -> None:
    """All of them, each once, whatever the size of a page, and though the cursor's own device is removed meanwhile."""
    names = {f"GID_plant@@@d{number}" for number in range(20)}
    for name in names:
        assert (await operator.post("/api/devices", {"client_id": name})).status == 201
    for limit in (1, 7, 20, 200):
        listed = [device["client_id"] for device in await operator.all("/api/devices", limit)]
        assert len(listed) == 20
        assert set(listed) == names
    first = (await operator.get("/api/devices", limit="5")).body
    assert (await operator.ask("DELETE", f"/api/devices/{first['next_cursor']}")).status == 200
    rest = (await operator.get("/api/devices", limit="200", cursor=first["next_cursor"])).body
    assert {device["client_id"] for device in first["items"] + rest["items"]} == names
    # One shard's devices share a page, too.
    for number in range(20, 90):
        await operator.post("/api/devices", {"client_id": f"GID_plant@@@d{number}"})
    assert len({device["client_id"] for device in await operator.all("/api/devices", 3)}) == 89


WRONG: list[dict[str, Any]] = [
    {},
    {"client_id": "plant"},
    {"client_id": "x" * 10_000},
    {"client_id": D1, "role": "nobody"},
    {"client_id": "GID_other@@@d1"},
    {"client_id": D1, "algorithm": "none"},
    {"client_id": D1, "attributes": {"line": "a/#"}},
    {"client_id": D1, "attributes": {"line": 7}},
    {"client_id": D1, "attributes": {f"a{number}": "x" for number in range(33)}},
    {"client_id": D1, "note": "two\nlines"},
    {"client_id": D1, "public_key": "no key"},
    {"client_id": D1, "algorithm": "ES256", "public_key": "no key"},
    {"client_id": D1, "secret": "mine"},
]


async def test_a_wrong_registration_is_refused_and_registers_nothing(operator: Operator) -> None:
    """With what was wrong and the cure."""
    for body in WRONG:
        answer = await operator.post("/api/devices", body)
        assert (answer.status, answer.body["error"]) == (400, "invalid_request"), (body, answer)
        assert "mine" not in answer.body["error_description"]
    assert await operator.all("/api/devices") == []


async def test_a_public_key_is_registered_and_no_secret_made(operator: Operator) -> None:
    """The private half never leaves the device; a second registration of it is refused."""
    _, public = new_pair(Algorithm.ES256)
    body = {"client_id": D1, "algorithm": "ES256", "public_key": public.reveal()}
    assert (await operator.post("/api/devices", body)).body == {"client_id": D1}
    assert (await operator.post("/api/devices", body)).status == 400
    for grace_s in (-1, 10**9, 1.5, "60"):
        assert (await operator.post(f"/api/devices/{D1}/rotate", {"grace_s": grace_s})).status == 400
