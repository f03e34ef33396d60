from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.devices import Algorithm
from app.service import issue
from app.service.registry import Registry
from app.store.records import RequestResult
from app.web import request_input
from app.web.request_input import FORM
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import ASSERTION_TYPE, Caller
from tests.web.conftest import ACCESS_KEY_ID, INSTANCE_ID, ISSUER, MakeCaller, OwnCloud

MAX_AGE_S = 0.3
"""As old as an answer of Redis may be, where a test waits for it."""

SCOPE = "pub:plant/d1/up/# sub:plant/all sub:plant/d1/down/#"


async def test_a_token_answer_can_be_pasted_into_mqtt_connect(caller: Caller, cloud: OwnCloud) -> None:
    """The answer holds user name, password and client ID as the broker takes them, and says what it permits."""
    answer = await caller.token()
    assert answer.status == 200
    body, mqtt = answer.body, answer.body["mqtt"]
    assert body["token_type"] == "Bearer"
    assert body["scope"] == SCOPE
    assert 3600 * 0.96 <= body["expires_in"] <= 3600
    assert mqtt["client_id"] == caller.client_id
    assert mqtt["username"] == f"Token|{ACCESS_KEY_ID}|{INSTANCE_ID}"
    assert mqtt["password"] == body["access_token"]
    assert (mqtt["host"], mqtt["port"], mqtt["tls"]) == ("127.0.0.1", cloud.mqtt_port, False)
    assert [each["type"] for each in mqtt["tokens"]] == ["R", "W"]
    assert "|".join(f"{each['type']}|{each['token']}" for each in mqtt["tokens"]) == mqtt["password"]
    [expires_at] = {each["expires_at"] for each in mqtt["tokens"]}
    assert abs(expires_at / 1000 - time.time() - body["expires_in"]) < 5
    assert answer.headers["Cache-Control"] == "no-store"


async def test_identical_requests_cost_one_call_a_cloud_token(
    caller: Caller, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """Fifty requests at two instances get one token, applied for once for R and once for W."""
    await cloud.fault("ApplyToken", "hold", times=2)
    other = Caller(other_server, ISSUER, caller.client_id, caller.key)
    requests = [asyncio.create_task((caller, other)[number % 2].token()) for number in range(50)]
    await cloud.until_held(2)
    await cloud.release()
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["access_token"] for answer in answers}) == 1
    assert await cloud.applied() == 2


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_every_algorithm_is_served(make_caller: MakeCaller, algorithm: Algorithm) -> None:
    """A device proves itself with the algorithm it was registered with, by an assertion."""
    caller = await make_caller(algorithm=algorithm)
    assert (await caller.token()).status == 200


async def test_a_secret_serves_basic_too_and_a_key_pair_does_not(make_caller: MakeCaller) -> None:
    """``client_secret_basic`` is for devices with a shared secret alone."""
    secret, pair = await make_caller(), await make_caller("GID_plant@@@d2", Algorithm.EDDSA)
    first, second = await secret.token_by_basic(), await secret.token()
    assert first.status == 200
    assert second.body["access_token"] == first.body["access_token"]
    refused = await pair.token_by_basic("x" * 40)
    assert (refused.status, refused.body["error"]) == (401, "invalid_client")


async def test_equal_sides_make_one_cloud_token_of_both_rights(make_caller: MakeCaller, cloud: OwnCloud) -> None:
    """A grant with the same topics to read and to write costs one ApplyToken, of type RW."""
    caller = await make_caller(role="line", attributes={"line": "7"})
    answer = await caller.token()
    assert answer.body["scope"] == "pub:plant/7/# sub:plant/7/#"
    assert [each["type"] for each in answer.body["mqtt"]["tokens"]] == ["RW"]
    assert answer.body["access_token"].startswith("RW|")
    assert await cloud.applied() == 1


async def test_scope_narrows_and_only_narrows(caller: Caller, cloud: OwnCloud) -> None:
    """What is asked for is granted if the policy covers it; beyond it nothing is, and the cloud is not called."""
    narrow = await caller.token(scope="pub:plant/d1/up/temp")
    assert (narrow.status, narrow.body["scope"]) == (200, "pub:plant/d1/up/temp")
    [made] = await cloud.tokens()
    assert (made["type"], made["resources"]) == ("W", ["plant/d1/up/temp"])
    for scope in (
        "pub:plant/#",
        "pub:plant/d2/up/x",
        "sub:plant/d1/up/x",
        f"{SCOPE} pub:plant/all",
        "pub:plant/+/up/#",
    ):
        answer = await caller.token(scope=scope)
        assert (answer.status, answer.body["error"]) == (400, "invalid_scope"), scope
        assert "outside the policy" in answer.body["error_description"]
    assert await cloud.applied() == 1


MALFORMED_SCOPES = [
    ("sub:plant/d1/down/ ", "%2B"),
    (" sub:plant/all", "stray space"),
    ("sub:plant/all  pub:plant/d1/up/x", "%2B"),
    ("plant/all", "pub:FILTER or sub:FILTER"),
    ("read:plant/all", "pub:FILTER or sub:FILTER"),
    ("sub:", "has no topic filter"),
    ("sub:$SYS/#", "begins with $"),
    ("sub:plant/all,plant/d1/down/x", "comma"),
    ("sub:plant/#/x", "# before its last level"),
    ("sub:plant/a+", "wildcard"),
    ("sub:plant/\u00e9", "character"),
    ('sub:plant/"', "character"),
    ("sub:" + "x" * 65, "65 characters"),
    (" ".join(f"pub:plant/d1/up/{number}" for number in range(101)), "100"),
]


@pytest.mark.parametrize(("scope", "hint"), MALFORMED_SCOPES)
async def test_a_malformed_scope_is_refused_with_its_cure(
    caller: Caller, cloud: OwnCloud, scope: str, hint: str
) -> None:
    """The refusal names the permission and what to do about it; nothing is applied for."""
    answer = await caller.token(scope=scope)
    assert (answer.status, answer.body["error"]) == (400, "invalid_scope")
    assert hint in answer.body["error_description"]
    assert await cloud.applied() == 0


@pytest.mark.parametrize(
    "expires_in", ["0", "-1", "64", "1000000000000", "2592001", "soon", "1e3", "65.0", " 65", "६५"]
)
async def test_a_life_outside_the_clouds_limits_is_refused(caller: Caller, cloud: OwnCloud, expires_in: str) -> None:
    """``expires_in`` is 65 to 2,592,000 whole seconds."""
    answer = await caller.token(expires_in=expires_in)
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")
    assert "expires_in" in answer.body["error_description"]
    assert await cloud.applied() == 0


async def test_a_life_is_capped_by_the_role_and_never_longer_than_asked(make_caller: MakeCaller) -> None:
    """A life above the role's cap is the cap; a short one is not answered with the long token that is there."""
    caller = await make_caller(role="line", attributes={"line": "7"})
    long, default, short = [
        (await caller.token(**asked)).body for asked in ({"expires_in": "86400"}, {}, {"expires_in": "65"})
    ]
    assert 1200 * 0.96 <= long["expires_in"] <= 1200
    assert 598 <= default["expires_in"] <= 600
    assert 60 <= short["expires_in"] <= 65
    assert len({body["access_token"] for body in (long, default, short)}) == 3


FORMS: list[tuple[Any, int, str]] = [
    ({}, 400, "invalid_request"),
    ("", 400, "invalid_request"),
    ("grant_type", 400, "invalid_request"),
    ({"grant_type": ""}, 400, "invalid_request"),
    ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ("grant_type=client_credentials&grant_type=client_credentials", 400, "invalid_request"),
    ("grant_type=client_credentials&scope=a&scope=b", 400, "invalid_request"),
    ("grant_type=client_credentials&scope=%ff", 400, "invalid_request"),
    ("grant_type=client_credentials&x=é".encode(), 400, "invalid_request"),
    ("&".join(f"p{number}=1" for number in range(40)), 400, "invalid_request"),
    ({"grant_type": "client_credentials"}, 401, "invalid_client"),
    ({"grant_type": "client_credentials", "client_secret": "x"}, 401, "invalid_client"),
    ({"grant_type": "client_credentials", "client_assertion": "x"}, 400, "invalid_request"),
    ({"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}, 400, "invalid_request"),
    (
        {"grant_type": "client_credentials", "client_assertion_type": "x", "client_assertion": "y"},
        400,
        "invalid_request",
    ),
]


@pytest.mark.parametrize(("form", "status", "error"), FORMS)
async def test_a_careless_form_is_refused_with_what_is_wrong(
    caller: Caller, cloud: OwnCloud, form: Any, status: int, error: str
) -> None:
    """Missing, empty, doubled and undecodable parameters change nothing and are named."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if isinstance(form, str | bytes) else {}
    answer = await caller.post("/oauth/token", form, headers=headers)
    assert (answer.status, answer.body["error"]) == (status, error)
    assert answer.body["error_description"]
    assert await cloud.applied() == 0


async def test_a_form_is_a_form_of_a_modest_size(caller: Caller) -> None:
    """Another content type, parameters in the URL, and more than 64 KiB are refused."""
    as_json = await caller.post("/oauth/token", b"{}", headers={"Content-Type": "application/json"})
    in_url = await caller.post("/oauth/token?grant_type=client_credentials", caller.form())
    large = await caller.post("/oauth/token", caller.form() | {"x": "y" * 65 * 1024})
    large_assertion = await caller.token("x" * 8200)
    assert [answer.status for answer in (as_json, in_url, large, large_assertion)] == [400, 400, 413, 400]
    assert large.body["error"] == "invalid_request"
    assert "client_assertion" in large_assertion.body["error_description"]


async def test_a_compressed_body_is_refused(caller: Caller) -> None:
    """Nothing a stranger sent is unpacked, and nothing else is read than what was sent."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    answer = await caller.post("/oauth/token", gzip.compress(b"grant_type=client_credentials"), headers=headers)
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")
    assert "Content-Encoding" in answer.body["error_description"]


async def test_a_body_that_does_not_come_is_not_waited_for(
    server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who sends half a form and no more holds nothing open: it is refused when its time is over."""
    monkeypatch.setattr(request_input, "BODY_WITHIN_S", 0.1)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    writer.write(f"{head}Content-Length: 50\r\n\r\ngrant".encode())
    async with asyncio.timeout(5):
        assert b" 400 " in await reader.readline()
    writer.close()


async def test_two_ways_of_authenticating_at_once_are_refused(caller: Caller) -> None:
    """Basic beside an assertion is ambiguous, whichever client they name (RFC 6749 section 2.3)."""
    answer = await caller.post("/oauth/token", caller.form(), headers=caller.basic())
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")


async def test_a_device_introspects_its_own_token(caller: Caller) -> None:
    """By password or by handle: active, with scope and expiry, and confirmed by the cloud."""
    token = (await caller.token()).body
    for held in (token["access_token"], token["handle"]):
        answer = await caller.introspect(held)
        assert answer.status == 200
        assert answer.body["active"] is True
        assert answer.body["cloud_checked"] is True
        assert (answer.body["client_id"], answer.body["scope"]) == (caller.client_id, SCOPE)
        assert answer.body["exp"] - answer.body["iat"] <= 3600


async def test_introspection_says_when_the_cloud_could_not_be_asked(caller: Caller, cloud: OwnCloud) -> None:
    """An outage of the cloud is reported, and is not taken for a revocation."""
    token = (await caller.token()).body
    await cloud.fault("QueryToken", "error", code="InternalError", times=None)
    answer = await caller.introspect(token["handle"])
    assert (answer.body["active"], answer.body["cloud_checked"]) == (True, False)


async def test_what_is_no_live_token_of_the_callers_is_inactive(
    caller: Caller, make_caller: MakeCaller, cloud: OwnCloud
) -> None:
    """Unknown, malformed and foreign tokens look alike, and cost no call."""
    other = await make_caller("GID_plant@@@d2")
    foreign = (await other.token()).body
    joined = f"{foreign['access_token']}|RW|x"
    for held in (
        foreign["access_token"],
        foreign["handle"],
        joined,
        "R|unknown",
        "R|",
        "|",
        "x",
        "99-" + "a" * 22,
        "x" * 20000,
    ):
        answer = await caller.introspect(held)
        assert (answer.status, answer.body) == (200, {"active": False}), held
    assert await cloud.calls("QueryToken") == {}


async def test_a_revoked_token_is_inactive_here_and_at_the_cloud_and_a_new_one_is_had(
    caller: Caller, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """Once revoke is answered no instance hands the token out; the device applies anew."""
    token = (await caller.token()).body
    answer = await caller.revoke(token["access_token"])
    assert answer.status == 200
    assert answer.body == {"handle": token["handle"], "broker": "revoked"}
    other = Caller(other_server, ISSUER, caller.client_id, caller.key)
    assert (await other.introspect(token["access_token"])).body == {"active": False}
    assert all(each["revoked"] for each in await cloud.tokens())
    renewed = (await other.token()).body
    assert renewed["access_token"] != token["access_token"]
    assert (await caller.revoke(token["handle"])).status == 200
    assert (await caller.introspect(renewed["handle"])).body["active"] is True


async def test_revoking_what_is_unknown_is_no_error_and_what_is_anothers_changes_nothing(
    caller: Caller, make_caller: MakeCaller
) -> None:
    """RFC 7009: an invalid token is answered 200; a token of another client is refused."""
    other = await make_caller("GID_plant@@@d2")
    foreign = (await other.token()).body
    assert (await caller.revoke("R|unknown")).status == 200
    refused = await caller.revoke(foreign["access_token"])
    assert (refused.status, refused.body["error"]) == (400, "invalid_request")
    assert (await other.introspect(foreign["handle"])).body["active"] is True


async def test_a_revoke_is_answered_while_the_cloud_is_down_and_delivered_later(
    caller: Caller, cloud: OwnCloud
) -> None:
    """Here it is gone at once; the answer says that the broker does not know yet; it is delivered when it can be."""
    token = (await caller.token()).body
    await cloud.fault("RevokeToken", "error", code="InternalError", times=3)
    answer = await caller.revoke(token["handle"])
    assert answer.status == 200
    assert answer.body["broker"].startswith("still valid at the broker")
    assert (await caller.introspect(token["handle"])).body == {"active": False}
    await cloud.until_revoked(2)


@pytest.mark.parametrize("change", ["revoke_device", "disable_device", "remove_device", "rotate_key"])
async def test_no_change_of_a_device_is_overtaken_by_its_flight(
    caller: Caller, registry: Registry, cloud: OwnCloud, change: str
) -> None:
    """What was being applied for when a device was changed is never handed out.

    A merely revoked device gets another token; a disabled, removed or re-keyed one is refused.
    """
    await cloud.fault("ApplyToken", "hold", times=2)
    request = asyncio.create_task(caller.token())
    await cloud.until_held(2)
    await getattr(registry, change)(caller.client_id, actor=CLI)
    await cloud.release()
    answer = await request
    if change == "revoke_device":
        assert answer.status == 200
    else:
        assert (answer.status, answer.body["error"]) == (401, "invalid_client")
    await cloud.until_revoked(2)
    assert await cloud.unrevoked() == (2 if change == "revoke_device" else 0)


async def test_an_answer_that_a_revoke_may_have_overtaken_is_not_used(
    caller: Caller, other_server: TestClient[Any, Any], server: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that was paused between Redis's answer and its own asks Redis again."""
    token = (await caller.token()).body
    other = Caller(other_server, ISSUER, caller.client_id, caller.key)
    tokens = server.app[SERVICES].stores.tokens
    request = tokens.request
    results: list[RequestResult] = []

    async def paused_once(*arguments: Any, **options: Any) -> RequestResult:
        results.append(await request(*arguments, **options))
        if len(results) == 1:
            await other.revoke(token["handle"])
            time.sleep(MAX_AGE_S)  # noqa: ASYNC251 (the pause)
        return results[-1]

    monkeypatch.setattr(issue, "MAX_ANSWER_AGE_S", MAX_AGE_S)
    monkeypatch.setattr(tokens, "request", paused_once)
    renewed = (await caller.token()).body
    assert results[0].status == "live"
    assert renewed["access_token"] != token["access_token"]


async def test_metadata_describes_every_endpoint(server: TestClient[Any, Any]) -> None:
    """RFC 8414: a client finds where to call and how to prove itself."""
    async with server.get("/.well-known/oauth-authorization-server") as response:
        body = await response.json()
    assert body["issuer"] == ISSUER
    assert body["token_endpoint"] == f"{ISSUER}/oauth/token"
    assert body["introspection_endpoint"] == f"{ISSUER}/oauth/introspect"
    assert body["revocation_endpoint"] == f"{ISSUER}/oauth/revoke"
    assert set(body["token_endpoint_auth_methods_supported"]) == {
        "client_secret_basic",
        "client_secret_jwt",
        "private_key_jwt",
    }
    assert set(body["token_endpoint_auth_signing_alg_values_supported"]) == {"HS256", "ES256", "EdDSA", "RS256"}
    assert "none" not in str(body)


async def test_a_password_pieced_together_is_not_ours(caller: Caller) -> None:
    """A cloud token of ours under a wrong label, or beside one that is not ours, is no live token."""
    token = (await caller.token()).body
    [read, write] = [each["token"] for each in token["mqtt"]["tokens"]]
    assert (await caller.introspect(f"W|{write}|R|{read}")).body["active"] is True
    assert (await caller.introspect(f"R|{read}")).body["active"] is True
    for pieced in (f"RW|{read}", f"R|{write}|W|{read}", f"R|{read}|W|garbage"):
        assert (await caller.introspect(pieced)).body == {"active": False}, pieced


async def test_one_revocation_that_hangs_does_not_hold_up_another(
    caller: Caller, make_caller: MakeCaller, cloud: OwnCloud
) -> None:
    """Deliveries go side by side: what the cloud leaves unanswered costs only itself."""
    other = await make_caller("GID_plant@@@d2")
    hanging, prompt = (await caller.token()).body, (await other.token()).body
    await cloud.fault("RevokeToken", "hang", times=1)
    await caller.revoke(hanging["handle"])
    assert (await other.revoke(prompt["handle"])).body["broker"] == "revoked"
    await cloud.clear()


async def test_a_secret_sent_bare_is_not_repeated(caller: Caller) -> None:
    """What looks like a parameter's name may be a secret: only known names are repeated."""
    answer = await caller.post("/oauth/token", f"{caller.key}=", headers={"Content-Type": FORM})
    assert answer.status == 400
    assert caller.key not in answer.body["error_description"]
