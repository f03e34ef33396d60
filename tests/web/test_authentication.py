from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import TestClient

from app.model.devices import Algorithm
from app.model.secrets import ClientSecret
from app.service.registry import Registry
from tests.actors import CLI
from tests.callers import Answer, Caller
from tests.web.conftest import ISSUER, MakeCaller, OwnCloud

GENERIC = "client authentication failed: the client is unknown or disabled, or its key or method is another"


def refused(answer: Answer, hint: str = GENERIC) -> None:
    """Check that the caller was not let in, and that the answer says why as far as the caller may know."""
    assert (answer.status, answer.body["error"]) == (401, "invalid_client"), answer
    assert hint
    assert hint in answer.body["error_description"]
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def segment(value: object) -> str:
    """Encode one part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# A suite on a busy machine may get here half an hour after it was collected.
NOW, DAY_S = int(time.time()), 86_400

CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"aud": "https://other.example"}, "aud must be"),
    ({"aud": f"{ISSUER}/oauth/token"}, "aud must be"),
    ({"aud": f"{ISSUER}/"}, "aud must be"),
    ({"aud": [ISSUER]}, "aud must be"),
    ({"aud": [ISSUER, "https://other.example"]}, "aud must be"),
    ({"aud": None}, "no aud"),
    ({"iss": "GID_plant@@@d2"}, "refused"),
    ({"iss": None}, "no iss"),
    ({"sub": None}, "no sub"),
    ({"sub": 7}, "no sub"),
    ({"sub": "\ud800"}, "no sub"),
    ({"sub": "GID_plant@@@d2"}, GENERIC),
    ({"exp": NOW - 3600}, "expired"),
    ({"exp": NOW + DAY_S}, "more than 300 s ahead"),
    ({"exp": None}, "no exp"),
    ({"exp": "soon"}, "exp must be a number"),
    ({"exp": True}, "exp must be a number"),
    ({"exp": 1e300}, "exp must be a number"),
    ({"nbf": NOW + DAY_S}, "nbf is in the future"),
    ({"iat": NOW + DAY_S}, "iat is in the future"),
    ({"jti": None}, "no jti"),
    ({"jti": ""}, "jti must be"),
    ({"jti": "x" * 300}, "jti must be"),
    ({"jti": 7}, "refused"),
]


@pytest.mark.parametrize(("claims", "hint"), CLAIMS)
async def test_each_claim_is_checked(caller: Caller, cloud: OwnCloud, claims: dict[str, Any], hint: str) -> None:
    """A well-signed assertion with one wrong claim is refused, and the answer says which."""
    refused(await caller.token(caller.assertion(**claims)), hint)
    assert await cloud.applied() == 0


async def test_a_minute_of_leeway_is_given(caller: Caller) -> None:
    """A clock that is a little off is let in, on either side."""
    now = int(time.time())
    for claims in list[dict[str, Any]]([{"exp": now - 50}, {"exp": now + 350}, {"iat": now + 50, "nbf": now + 50}]):
        assert (await caller.token(caller.assertion(**claims))).status == 200


@pytest.mark.parametrize(
    ("name", "offset_s", "hint"),
    [
        ("exp", -70, "expired 7"),
        ("exp", 300 + 70, "more than 300 s ahead"),
        ("iat", 70, "iat is in the future"),
        ("nbf", 70, "nbf is in the future"),
    ],
)
async def test_no_more_than_a_minute_of_leeway_is_given(caller: Caller, name: str, offset_s: int, hint: str) -> None:
    """A stolen assertion is worth no more for a clock that is further off."""
    claims: dict[str, Any] = {name: int(time.time()) + offset_s}
    refused(await caller.token(caller.assertion(**claims)), hint)


async def test_an_assertion_is_good_once(caller: Caller, other_server: TestClient[Any, Any]) -> None:
    """Replayed at the same instance, at another, or at another endpoint, it is refused: sign a new one."""
    assertion = caller.assertion()
    assert (await caller.token(assertion)).status == 200
    other = Caller(other_server, ISSUER, caller.client_id, caller.key)
    for again in (await caller.token(assertion), await other.token(assertion)):
        refused(again, "already used: sign a new one")
    form = caller.form(assertion, token="x")
    refused(await caller.post("/oauth/introspect", form), "already used")
    refused(await caller.post("/oauth/revoke", form), "already used")


async def test_one_devices_jti_does_not_use_up_anothers(make_caller: MakeCaller) -> None:
    """A ``jti`` is unique for its device alone: no device can use up another's."""
    one, two = await make_caller(), await make_caller("GID_plant@@@d2")
    assert (await one.token(one.assertion(jti="same"))).status == 200
    assert (await two.token(two.assertion(jti="same"))).status == 200


async def test_unsigned_and_wrongly_signed_assertions_are_refused(make_caller: MakeCaller) -> None:
    """``none``, another algorithm than the record's, another key, and a public key used as a secret."""
    secret = await make_caller()
    pair = await make_caller("GID_plant@@@d2", Algorithm.ES256)
    payload = jwt.decode(secret.assertion(), options={"verify_signature": False})
    unsigned = f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(payload)}."
    refused(await secret.token(unsigned), "must be signed with one of")
    refused(await secret.token(secret.assertion(key="x" * 64, algorithm="HS512")), "must be signed with one of")
    refused(await secret.token(secret.assertion(key="x" * 40)))
    refused(await secret.token(secret.assertion(key=pair.key, algorithm="ES256")))
    refused(await pair.token(pair.assertion(key=secret.key, algorithm="HS256")))
    head, body, signature = secret.assertion().split(".")
    payload["exp"] += 60
    refused(await secret.token(f"{head}.{segment(payload)}.{signature}"))
    refused(await secret.token(f"{head}.{body}.{'A' * len(signature)}"))


async def test_a_public_key_is_no_shared_secret(make_caller: MakeCaller, registry: Registry) -> None:
    """The old confusion: an HS256 assertion keyed with the registered public key proves nothing."""
    pair = await make_caller(algorithm=Algorithm.RS256)
    public = await registry.public_key(pair.client_id)
    assert public is not None
    head, body = segment({"alg": "HS256"}), segment(jwt.decode(pair.assertion(), options={"verify_signature": False}))
    hs256 = jwt.get_algorithm_by_name("HS256")
    signature = hs256.sign(f"{head}.{body}".encode(), public.reveal().encode())
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    refused(await pair.token(forged))


@pytest.mark.parametrize("text", ["x", "a.b", "a.b.c", "....", "!!.!!.!!", "e30.W10.AA", "ey" * 100])
async def test_a_malformed_jwt_is_refused_in_words(caller: Caller, text: str) -> None:
    """Malformed base64 and JSON are a refusal, never a fault."""
    refused(await caller.token(text), "client_assertion is not a valid JWT")


@pytest.mark.parametrize("algorithm", [["HS256"], {}, 7, None])
async def test_an_alg_that_is_no_text_is_refused_in_words(caller: Caller, algorithm: object) -> None:
    """A header of any shape is a refusal, never a fault."""
    head = segment({"alg": algorithm, "typ": "JWT"})
    refused(await caller.token(".".join([head, *caller.assertion().split(".")[1:]])), "must be signed with one of")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False}])
async def test_a_header_that_changes_how_to_verify_is_refused(caller: Caller, header: dict[str, Any]) -> None:
    """An extension that is not understood is not passed over (RFC 7515 section 4.1.11)."""
    head = segment({"alg": "HS256"} | header)
    refused(await caller.token(".".join([head, *caller.assertion().split(".")[1:]])), "the assertion is refused")


async def test_a_jti_may_be_any_text(caller: Caller) -> None:
    """Also one that JSON can write and UTF-8 cannot: it is good once."""
    assertion = caller.assertion(jti="\ud800")
    assert (await caller.token(assertion)).status == 200
    refused(await caller.token(assertion), "already used")


async def test_unknown_disabled_and_wrong_key_callers_get_one_answer(
    caller: Caller, registry: Registry, make_caller: MakeCaller
) -> None:
    """An outsider does not learn which client IDs exist."""
    disabled = await make_caller("GID_plant@@@d2")
    await registry.disable_device(disabled.client_id, actor=CLI)
    unknown = Caller(caller.client, ISSUER, "GID_plant@@@nobody", "x" * 40)
    wrong = Caller(caller.client, ISSUER, caller.client_id, "x" * 40)
    answers = [await each.token() for each in (unknown, disabled, wrong)]
    answers += [await each.token_by_basic() for each in (unknown, disabled, wrong)]
    for answer in answers:
        refused(answer)
    assert len({json.dumps(answer.body) for answer in answers}) == 1


async def test_the_form_and_the_proof_name_one_client(caller: Caller) -> None:
    """A ``client_id`` in the form that is not the one proven is refused."""
    assert (await caller.token(client_id=caller.client_id)).status == 200
    refused(await caller.token(client_id="GID_plant@@@d2"), "client_id")
    answer = await caller.token_by_basic(client_id="GID_plant@@@d2")
    assert (answer.status, answer.body["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("Basic", "lacks the client ID or the secret"),
        ("Basic !!!", "HTTP Basic"),
        ("Basic eA==", "lacks the client ID or the secret"),
        ("Basic Og==", "lacks the client ID or the secret"),
        ("Bearer x", "authenticate with the Basic scheme"),
        ("Digest x", "authenticate with the Basic scheme"),
        ("Basic /w==", "HTTP Basic"),
        ("Basic " + "A" * 5000, "lacks the client ID or the secret"),
    ],
)
async def test_a_broken_authorization_header_is_refused(caller: Caller, header: str, hint: str) -> None:
    """Only HTTP Basic with a client ID and a secret is read."""
    form = {"grant_type": "client_credentials"}
    refused(await caller.post("/oauth/token", form, headers={"Authorization": header}), hint)


async def test_changes_of_a_device_count_at_once(caller: Caller, registry: Registry) -> None:
    """The server's cached record never outlives a change: disable, enable, rotate and remove are seen at once."""
    assert (await caller.token()).status == 200
    await registry.disable_device(caller.client_id, actor=CLI)
    refused(await caller.token())
    await registry.enable_device(caller.client_id, actor=CLI)
    assert (await caller.token()).status == 200
    added, _ = await registry.rotate_key(caller.client_id, actor=CLI)
    refused(await caller.token())
    assert added.secret is not None
    rotated = Caller(caller.client, ISSUER, caller.client_id, added.secret.reveal())
    assert (await rotated.token()).status == 200
    await registry.remove_device(caller.client_id, actor=CLI)
    refused(await rotated.token())


async def test_a_refusal_is_judged_under_the_record_of_now(
    caller: Caller, registry: Registry, make_caller: MakeCaller
) -> None:
    """A disabled or re-keyed device learns nothing of the policy any more, and a new role counts at once."""
    assert (await caller.token()).status == 200
    await registry.disable_device(caller.client_id, actor=CLI)
    refused(await caller.token(scope="pub:elsewhere/x"))
    await registry.remove_device(caller.client_id, actor=CLI)
    again = await make_caller(role="line", attributes={"line": "7"}, secret=ClientSecret("k" * 32))
    assert (await again.token(scope="pub:plant/7/x")).status == 200
    await registry.remove_device(caller.client_id, actor=CLI)
    other = await make_caller(secret=ClientSecret("k" * 32))
    assert (await other.token(scope="pub:plant/d1/up/x")).status == 200


async def test_a_refused_assertion_is_used_up(caller: Caller) -> None:
    """A thief cannot try with one assertion what the policy allows."""
    assertion = caller.assertion()
    assert (await caller.token(assertion, scope="pub:elsewhere/x")).body["error"] == "invalid_scope"
    refused(await caller.token(assertion, scope="pub:plant/d1/up/x"), "already used")
