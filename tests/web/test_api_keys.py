from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.api_keys import Right
from app.service.api_keys import ApiKeyAdmin
from app.store.api_keys import ApiKeys
from app.store.sealing import SealingKeys
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Answer, Caller, read
from tests.sealing_keys import new_key_text
from tests.web.conftest import OwnCloud

Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
def office(server: TestClient[Any, Any]) -> ApiKeyAdmin:
    """Makes keys for the server."""
    return ApiKeyAdmin(server.app[SERVICES].stores.api_keys)


@pytest.fixture
def ask(server: TestClient[Any, Any]) -> Ask:
    """A function that posts a form to an endpoint, with Authorization headers as given."""

    async def post(endpoint: str, *authorization: str, **form: str) -> Answer:
        headers = [("Authorization", value) for value in authorization]
        async with server.post(f"/oauth/{endpoint}", data=form, headers=headers) as response:
            return await read(response)

    return post


async def bearer(office: ApiKeyAdmin, *rights: Right, name: str = "billing") -> str:
    """Make a key, and return it as a header."""
    return f"Bearer {(await office.add_api_key(name, rights, actor=CLI)).text.reveal()}"


def refused(answer: Answer, status: int, error: str) -> None:
    """Check that a key was refused as RFC 6750 says."""
    assert (answer.status, answer.body["error"]) == (status, error), answer
    assert answer.headers["WWW-Authenticate"] == f'Bearer realm="mqtt-token-server", error="{error}"'


async def test_a_service_introspects_and_revokes_any_token(caller: Caller, office: ApiKeyAdmin, ask: Ask) -> None:
    """With a key that has the right a service is answered as the token's own device is."""
    token = (await caller.token()).body
    key = await bearer(office, Right.INTROSPECT, Right.REVOKE)
    for held in (token["access_token"], token["handle"]):
        answer = await ask("introspect", key, token=held)
        own = await caller.introspect(held)
        assert (answer.status, answer.body) == (200, own.body)
        assert (answer.body["active"], answer.body["client_id"]) == (True, caller.client_id)
    answer = await ask("revoke", key, token=token["access_token"])
    assert answer.body == {"handle": token["handle"], "broker": "revoked"}
    assert (await ask("introspect", key, token=token["handle"])).body == {"active": False}


async def test_a_service_learns_nothing_of_what_is_no_token_and_costs_no_call(
    office: ApiKeyAdmin, ask: Ask, cloud: OwnCloud
) -> None:
    """Unknown and malformed tokens are inactive, and revoking them is no error (RFC 7009 section 2.2)."""
    key = await bearer(office, Right.ADMIN)
    for held in ("R|unknown", "|", "x", "99-" + "a" * 22, "x" * 20000):
        assert (await ask("introspect", key, token=held)).body == {"active": False}
        answer = await ask("revoke", key, token=held)
        assert (answer.status, answer.body) == (200, {})
    assert await cloud.calls("QueryToken") == {}


async def test_a_key_has_its_rights_and_no_others(caller: Caller, office: ApiKeyAdmin, ask: Ask) -> None:
    """What a key may not do is 403, changes nothing, and does not depend on the token; admin may all."""
    token = (await caller.token()).body["handle"]
    asks, revokes = (
        await bearer(office, Right.INTROSPECT, name="asks"),
        await bearer(office, Right.REVOKE, name="revokes"),
    )
    admin = await bearer(office, Right.ADMIN, name="admin")
    for held in (token, "unknown"):
        refused(await ask("revoke", asks, token=held), 403, "insufficient_scope")
        refused(await ask("introspect", revokes, token=held), 403, "insufficient_scope")
    assert (await ask("introspect", admin, token=token)).body["active"] is True
    assert (await ask("revoke", admin, token=token)).status == 200


async def test_a_removed_key_counts_no_more_at_once(
    office: ApiKeyAdmin, ask: Ask, other_server: TestClient[Any, Any]
) -> None:
    """The next request with it is refused, at every instance; the same name again is another key."""
    key = await bearer(office, Right.INTROSPECT)
    assert (await ask("introspect", key, token="x")).status == 200
    await office.remove_api_key("billing", actor=CLI)
    refused(await ask("introspect", key, token="x"), 401, "invalid_token")
    async with other_server.post("/oauth/introspect", data={"token": "x"}, headers={"Authorization": key}) as response:
        refused(await read(response), 401, "invalid_token")
    again = await bearer(office, Right.INTROSPECT)
    assert again != key
    refused(await ask("introspect", key, token="x"), 401, "invalid_token")
    assert (await ask("introspect", again, token="x")).status == 200


BROKEN = [
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer mts_",
    "Bearer mts_" + "0" * 16 + "_" + "A" * 43,
    "Bearer mts_" + "0" * 16 + "_" + "A" * 5000,
    "Bearer mts_../keys_" + "A" * 43,
    "Bearer mts_" + "0" * 16 + "_" + "A" * 43 + ", Bearer x",
]


@pytest.mark.parametrize("header", BROKEN)
async def test_a_malformed_or_unknown_key_is_one_refusal(ask: Ask, header: str) -> None:
    """Whatever is wrong with a key, its sender is told the same."""
    for endpoint in ("introspect", "revoke"):
        answer = await ask(endpoint, header, token="x")
        refused(answer, 401, "invalid_token")
        assert answer.body["error_description"] == "the API key is malformed, unknown or removed"


async def test_a_key_with_another_secret_or_of_another_server_is_refused(
    office: ApiKeyAdmin, ask: Ask, server: TestClient[Any, Any]
) -> None:
    """An ID proves nothing without its secret."""
    key = await bearer(office, Right.ADMIN)
    refused(await ask("introspect", key[:-43] + "A" * 43, token="x"), 401, "invalid_token")
    refused(await ask("introspect", key.swapcase(), token="x"), 401, "invalid_token")
    one, two = key.split("_", 2)[1], (await bearer(office, Right.ADMIN, name="two")).split("_", 2)[1]
    refused(await ask("introspect", key.replace(one, two), token="x"), 401, "invalid_token")


async def test_two_ways_of_authenticating_at_once_are_refused(caller: Caller, office: ApiKeyAdmin, ask: Ask) -> None:
    """A key beside another header, an assertion or a client ID is ambiguous (RFC 6749 section 2.3)."""
    key = await bearer(office, Right.ADMIN)
    for answer in (
        await ask("introspect", key, key, token="x"),
        await ask("introspect", key, caller.basic()["Authorization"], token="x"),
        await ask("introspect", key, **caller.form(token="x")),
        await ask("revoke", key, token="x", client_id=caller.client_id),
    ):
        assert (answer.status, answer.body["error"]) == (400, "invalid_request")


async def test_a_key_gets_no_token(office: ApiKeyAdmin, ask: Ask) -> None:
    """Tokens are for devices: at the token endpoint a key is no way of authenticating."""
    answer = await ask("token", await bearer(office, Right.ADMIN), grant_type="client_credentials")
    assert (answer.status, answer.body["error"]) == (401, "invalid_client")


async def test_whoever_writes_to_redis_gains_no_right(
    office: ApiKeyAdmin, ask: Ask, server: TestClient[Any, Any]
) -> None:
    """A record moved to another ID, or sealed by another server's key, opens nothing: 503, and the log tells why."""
    weak, strong = await bearer(office, Right.INTROSPECT), await bearer(office, Right.ADMIN, name="strong")
    store = server.app[SERVICES].stores.redis
    record = await store.requests.command("HGET", "{ops}:keys", strong[11:27])
    await store.requests.command("HSET", "{ops}:keys", weak[11:27], record)
    assert (await ask("introspect", weak, token="x")).status == 503
    foreign = ApiKeys(store, SealingKeys.parse(new_key_text("k1")))
    key = await bearer(ApiKeyAdmin(foreign), Right.ADMIN, name="foreign")
    assert (await ask("introspect", key, token="x")).status == 503
