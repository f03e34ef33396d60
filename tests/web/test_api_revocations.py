"""``/api/tokens``, ``/api/revocations``, ``/api/jobs`` and ``/api/audit``: a token's life as operators see it."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.service import delivery
from app.web import api_revocations
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import MakeCaller, OwnCloud
from tests.web.operators import Operator

UNKNOWN = "07-" + "a" * 22


@pytest.fixture
async def operator(server: TestClient[Any, Any]) -> Operator:
    """An operator at the server."""
    return await Operator.of(server)


async def test_tokens_are_listed_as_selected(make_caller: MakeCaller, operator: Operator) -> None:
    """By device, role, topic or all, page by page; a revoked one is listed no more, and can still be looked at."""
    callers = [await make_caller(f"GID_plant@@@d{number}") for number in range(5)]
    callers.append(await make_caller("GID_other@@@d9", role="line", attributes={"line": "d3"}))
    tokens = {caller.client_id: (await caller.token()).body for caller in callers}
    handles = {name: token["handle"] for name, token in tokens.items()}
    sensors = {handle for name, handle in handles.items() if "plant" in name}

    async def listed(limit: int = 200, **query: str) -> set[str]:
        items = await operator.all("/api/tokens", limit, **query)
        assert len({item["handle"] for item in items}) == len(items)
        assert {item["state"] for item in items} <= {"live"}
        return {item["handle"] for item in items}

    assert await listed() == await listed(1) == set(handles.values())
    assert await listed(role="sensor") == await listed(2, role="sensor") == sensors
    assert await listed(client_id="GID_plant@@@d3") == {handles["GID_plant@@@d3"]}
    assert await listed(topic="plant/all") == sensors
    assert await listed(topic="pub:plant/d3/+/x") == {handles["GID_plant@@@d3"], handles["GID_other@@@d9"]}
    assert await listed(1, topic="sub:plant/d3/x") == {handles["GID_other@@@d9"]}
    assert await listed(role="nobody") == set()

    mine = handles["GID_plant@@@d3"]
    view = (await operator.get(f"/api/tokens/{mine}")).body
    assert view["scope"] == tokens["GID_plant@@@d3"]["scope"]
    assert (view["client_id"], view["role"], view["state"], view["revocation"]) == (
        "GID_plant@@@d3",
        "sensor",
        "live",
        "",
    )
    assert 3300_000 < view["expires_at_ms"] - view["issued_at_ms"] <= 3600_000
    for each in tokens["GID_plant@@@d3"]["mqtt"]["tokens"]:
        assert each["token"] not in str(view)
    assert (await operator.post("/api/revocations", {"handle": mine})).status == 200
    assert mine not in await listed()
    assert (await operator.get(f"/api/tokens/{mine}")).body["state"] == "revoked"
    for query in ({"role": ""}, {"role": "sensor", "topic": "a"}, {"topic": "#"}, {"topic": "a//#/b"}):
        assert (await operator.get("/api/tokens", **query)).status == 400


async def test_a_token_and_a_device_are_revoked_at_once(
    caller: Caller, operator: Operator, other_server: TestClient[Any, Any]
) -> None:
    """Counted before, gone at each instance, once in the audit under the key's name; the device may apply anew."""
    token = (await caller.token()).body
    handle = token["handle"]
    assert (await operator.post("/api/revocations", {"handle": handle, "dry_run": True})).body == {"count": 1}
    assert (await caller.introspect(handle)).body["active"] is True
    for revoked in (1, 0):
        answer = await operator.at(other_server).post("/api/revocations", {"handle": handle})
        told = {"client_id": caller.client_id, "handle": handle, "revoked": revoked}
        assert (answer.status, answer.body) == (200, told)
    assert (await caller.introspect(handle)).body == {"active": False}
    lines = await operator.all("/api/audit", handle=handle, what="revoked")
    assert [(line["who"], line["client_id"]) for line in lines] == [("key:ops", caller.client_id)]
    assert (await operator.post("/api/revocations", {"handle": handle, "dry_run": True})).body == {"count": 0}

    again = (await caller.token()).body
    assert again["handle"] != handle
    asked = {"client_id": caller.client_id}
    assert (await operator.post("/api/revocations", asked | {"dry_run": True})).body == {"count": 1}
    assert (await operator.post("/api/revocations", asked)).body == asked | {"handle": "", "revoked": 1}
    assert (await caller.introspect(again["handle"])).body == {"active": False}
    assert (await caller.token()).status == 200


async def test_more_than_one_device_is_a_job(make_caller: MakeCaller, operator: Operator, cloud: OwnCloud) -> None:
    """202 with where to look; it tells its progress until the cloud has confirmed all."""
    callers = [await make_caller(f"GID_plant@@@d{number}") for number in range(3)]
    tokens = [(await caller.token()).body for caller in callers]
    begun: list[str] = []
    for selection in ({"role": "sensor"}, {"topic": "sub:plant/all"}, {"all": True}):
        counted = (await operator.post("/api/revocations", selection | {"dry_run": True})).body
        confirm = {"confirm": "everything"} if "all" in selection else {}
        answer = await operator.post("/api/revocations", selection | confirm)
        assert (answer.status, answer.headers["Location"]) == (202, f"/api/jobs/{answer.body['id']}")
        assert (answer.body["selection"], answer.body["by"]) == (selection, "key:ops")
        if not begun:
            assert (counted["count"], answer.body["counted"]) == (3, 3)
        begun.append(answer.body["id"])
    for caller, token in zip(callers, tokens, strict=True):
        assert (await caller.introspect(token["handle"])).body == {"active": False}

    async def settled() -> bool:
        return all([(await operator.get(f"/api/jobs/{job}")).body["settled"] for job in begun])

    await until(settled, "the jobs settled")
    done = await operator.all("/api/jobs", 2)
    assert [job["id"] for job in done] == begun[::-1]
    for name, count in {"queued": 3, "confirmed": 3, "waiting": 0, "failed": 0, "lapsed": 0, "dropped": 0}.items():
        assert sum(job[name] for job in done) == count, name
    assert {(job["shards_done"], job["done_at_ms"] > 0) for job in done} == {(done[0]["shards"], True)}
    assert {each["revoked"] for each in await cloud.tokens()} == {True}
    lines = await operator.all("/api/audit", who="key:ops")
    assert [(line["what"], line["detail"].split(":")[0]) for line in lines] == [
        ("job_started", job) for job in begun[::-1]
    ]
    revoked = await operator.all("/api/audit", 1, what="revoked")
    assert {(line["who"], line["handle"]) for line in revoked} <= {(f"job:{job}", "") for job in begun}
    assert sum(line["revoked"] for line in revoked) == 3
    for token in tokens:
        by_handle = await operator.all("/api/audit", handle=token["handle"])
        assert sorted(line["what"] for line in by_handle) == [
            "confirmed",
            "granted",
            "job_done",
            "job_started",
            "revoked",
        ]
        assert len({line["job"] for line in by_handle if line["what"] != "granted"}) == 1


WRONG: list[tuple[Any, int]] = [
    ({}, 400),
    (None, 400),
    ({"dry_run": True}, 400),
    ({"handle": ""}, 400),
    ({"role": ""}, 400),
    ({"role": "*"}, 400),
    ({"role": "sensor", "topic": "a"}, 400),
    ({"role": "sensor", "all": True, "confirm": "everything"}, 400),
    ({"handle": None}, 400),
    ({"all": True}, 400),
    ({"all": True, "confirm": "yes"}, 400),
    ({"all": False, "confirm": "everything"}, 400),
    ({"topic": "#"}, 400),
    ({"topic": "pub:"}, 400),
    ({"topic": "a/#/b"}, 400),
    ({"topic": "x" * 10_000}, 400),
    ({"client_id": "plant"}, 400),
    ({"client_id": "GID_plant@@@nobody"}, 404),
    ({"handle": UNKNOWN}, 404),
    ({"handle": "R|cloud-token"}, 404),
    ({"handle": "x" * 10_000}, 404),
    ({"handle": "99-" + "a" * 22}, 404),
]


async def test_what_selects_nothing_or_too_much_revokes_nothing(caller: Caller, operator: Operator) -> None:
    """Neither counted nor done, and no job is begun."""
    token = (await caller.token()).body
    for body, status in WRONG:
        answers = [await operator.post("/api/revocations", body)]
        if body and "all" not in body:
            answers.append(await operator.post("/api/revocations", body | {"dry_run": True}))
        for answer in answers:
            assert answer.status == status, (body, answer)
            assert "cloud-token" not in answer.body["error_description"]
    assert (await caller.introspect(token["handle"])).body["active"] is True
    assert await operator.all("/api/jobs") == []


async def test_the_queue_is_shown_and_what_failed_is_retried_or_dropped(
    make_caller: MakeCaller, operator: Operator, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In figures and page by page, by state; only what failed can be taken up again or given up."""
    assert (await operator.get("/api/revocations")).body == {
        "items": [],
        "next_cursor": None,
        "overview": {"queued": 0, "failed": 0, "est_empty_s": 0},
    }
    handles = [(await (await make_caller(f"GID_plant@@@d{number}")).token()).body["handle"] for number in range(2)]
    await cloud.fault("RevokeToken", "error", code="InstancePermissionCheckFailed", times=None)
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS", 1)
    for handle in handles:
        assert (await operator.post(f"/api/revocations/{handle}/retry")).status == 404
        await operator.post("/api/revocations", {"handle": handle})

    async def failed() -> bool:
        return len(await operator.all("/api/revocations", 1, state="failed")) == 2

    await until(failed, "both failed")
    assert (await operator.get("/api/revocations")).body["overview"] == {"queued": 0, "failed": 2, "est_empty_s": 0}
    await cloud.clear()
    retried, dropped = handles
    assert (await operator.post(f"/api/revocations/{retried}/retry")).body["revocation"] == "queued"
    assert (await operator.post(f"/api/revocations/{dropped}/drop")).body["revocation"] == "dropped"

    async def confirmed() -> bool:
        return bool((await operator.get(f"/api/tokens/{retried}")).body["revocation"] == "confirmed")

    await until(confirmed, "the one taken up again confirmed")
    assert (await operator.post(f"/api/revocations/{dropped}/retry")).status == 404
    assert sorted(each["revoked"] for each in await cloud.tokens()) == [False, False, True, True]
    acts = {(line["who"], line["what"], line["handle"]) for line in await operator.all("/api/audit")}
    assert {("key:ops", "retried", retried), ("key:ops", "dropped", dropped)} <= acts
    assert (await operator.get("/api/revocations", state="nonsense")).status == 400


async def test_the_audit_is_searched_by_a_token_in_hand(caller: Caller, operator: Operator) -> None:
    """In a body, for a URL lies in logs; a token of another issuer is 404, and not repeated."""
    token = (await caller.token()).body
    for text in (token["access_token"], token["mqtt"]["tokens"][0]["token"]):
        answer = await operator.post("/api/audit/search", {"token": text})
        assert [(line["what"], line["handle"]) for line in answer.body["items"]] == [("granted", token["handle"])]
        assert text not in str(answer.body)
    assert (await operator.post("/api/audit/search", {"token": token["handle"], "what": "refused"})).body["items"] == []
    for body, status in (
        ({"token": "R|foreign"}, 404),
        ({"token": ""}, 404),
        ({"token": "x" * 20_000}, 404),
        ({}, 400),
        ({"token": 7}, 400),
        ({"token": token["access_token"], "handle": UNKNOWN}, 400),
        ({"token": token["access_token"], "since_ms": -1}, 400),
        ({"token": token["access_token"], "since_ms": 2, "until_ms": 1}, 400),
    ):
        answer = await operator.post("/api/audit/search", body)
        assert answer.status == status, (body, answer)
        assert "foreign" not in answer.body["error_description"]


async def test_the_audit_is_filtered_and_paged(caller: Caller, operator: Operator) -> None:
    """By who, what, device, token and time."""
    handle = (await caller.token()).body["handle"]
    [granted] = await operator.all("/api/audit", what="granted")
    assert (granted["handle"], granted["who"], granted["client_id"]) == (
        handle,
        "device:" + caller.client_id,
        caller.client_id,
    )
    at_ms = granted["at_ms"]
    for query, count in (
        ({"handle": handle}, 1),
        ({"client_id": caller.client_id, "what": "device_added"}, 1),
        ({"who": "cli:test"}, 2),
        ({"what": "granted", "since_ms": str(at_ms), "until_ms": str(at_ms + 1)}, 1),
        ({"what": "granted", "until_ms": str(at_ms)}, 0),
        ({"what": "granted", "since_ms": str(at_ms + 1)}, 0),
    ):
        assert len(await operator.all("/api/audit", 1, **query)) == count, query
    for query in ({"what": "nonsense"}, {"handle": "x"}, {"since_ms": "-1"}, {"since_ms": "x"}, {"until_ms": "9" * 40}):
        assert (await operator.get("/api/audit", **query)).status == 400


async def test_a_count_that_takes_too_long_is_cut_off(
    caller: Caller, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with what to do instead; the revoke itself does not count a topic, and so does not wait for it."""
    await caller.token()
    monkeypatch.setattr(api_revocations, "COUNT_WITHIN_S", 0)
    answer = await operator.post("/api/revocations", {"topic": "plant/#", "dry_run": True})
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert (await operator.post("/api/revocations", {"topic": "plant/#"})).status == 202
