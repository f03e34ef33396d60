"""What all endpoints of the API have in common."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.api_keys import Right
from app.service.api_keys import ApiKeyAdmin
from app.web.request_input import MAX_BODY_BYTES
from app.web.route import SERVICES
from app.web.routes import API
from tests.actors import CLI
from tests.web.operators import Operator

HANDLE = "07-" + "a" * 22
LONG = "x" * 6000
"""As long as a URL can be: above 8190 bytes aiohttp itself refuses."""


@pytest.fixture
async def operator(server: TestClient[Any, Any]) -> Operator:
    """An operator at the server."""
    return await Operator.of(server)


def filled(path: str) -> str:
    """Return a path with something in the place of each variable."""
    return path.format(client_id="GID_plant@@@d1", handle=HANDLE, job="0" * 16)


async def test_every_endpoint_is_for_admins_alone(server: TestClient[Any, Any], operator: Operator) -> None:
    """Without a key, with another right and with a removed key each refuses, before it reads what was asked for."""
    routes = [route for route in server.app.router.routes() if route.method != "HEAD"]
    served = {(route.method, route.resource.canonical) for route in routes if route.resource}
    under_api = {(method, path) for method, path in served if path.startswith("/api")}
    assert {(each.method, each.path) for each in API} == under_api
    weak = await Operator.of(server, Right.REVOKE, "weak")
    removed = await Operator.of(server, name="removed")
    await ApiKeyAdmin(server.app[SERVICES].stores.api_keys).remove_api_key("removed", actor=CLI)
    for method, path in under_api:
        for headers, status, challenge in (
            ({}, 401, ""),
            (weak.headers, 403, ', error="insufficient_scope"'),
            (removed.headers, 401, ', error="invalid_token"'),
            ({"Authorization": "Basic b3BzOng="}, 401, ', error="invalid_token"'),
        ):
            answer = await operator.ask(method, filled(path), headers=headers, data=b"{")
            assert answer.status == status, (method, path, answer)
            assert answer.headers["WWW-Authenticate"] == f'Bearer realm="mqtt-token-server"{challenge}'


async def test_no_endpoint_takes_what_it_does_not_know(operator: Operator) -> None:
    """An unknown parameter or field may be meant to narrow: nothing is done, and it is not repeated."""
    for each in API:
        path = filled(each.path)
        for query in ("?hande=R|secret", "?limit=1&limit=2", "?limit=0", "?limit=201", "?limit=x", "?limit=1e999999"):
            answer = await operator.ask(each.method, path + query)
            assert (answer.status, answer.body["error"]) == (400, "invalid_request"), (path, query, answer)
            assert "secret" not in answer.body["error_description"]
        if each.method == "POST":
            answer = await operator.post(path, {"hande": "R|secret"})
            if "body" in each.types:
                assert (answer.status, answer.body["error"]) == (400, "invalid_request"), (path, answer)
                assert "secret" not in answer.body["error_description"]


BODIES: list[tuple[bytes, dict[str, str]]] = [
    (b"", {"Content-Type": "application/json"}),
    (b"null", {"Content-Type": "application/json"}),
    (b"[]", {"Content-Type": "application/json"}),
    (b"{", {"Content-Type": "application/json"}),
    (b'{"handle":"x"} {}', {"Content-Type": "application/json"}),
    (b'{"handle":7}', {"Content-Type": "application/json"}),
    (b'{"handle":"\xff"}', {"Content-Type": "application/json"}),
    (b'{"handle":"\\ud800 and more text"}', {"Content-Type": "application/json"}),
    (b'{"handle":"x","handle":"y"}', {"Content-Type": "application/json"}),
    (b'{"all":"true"}', {"Content-Type": "application/json"}),
    (b'{"handle":' + b"[" * 60_000, {"Content-Type": "application/json"}),
    (b"[" * 60_000, {"Content-Type": "application/json"}),
    (b'{"handle":"x"}', {"Content-Type": "text/plain"}),
    (b'{"handle":"x"}', {"Content-Type": "application/x-www-form-urlencoded"}),
    (b'{"handle":"x"}', {"Content-Type": "application/json", "Content-Encoding": "identity"}),
    (b"handle=x", {"Content-Type": "application/json"}),
]


async def test_a_body_is_json_or_refused(operator: Operator) -> None:
    """Whatever is no object of known fields, each once and of its type, is 400; too much is 413."""
    for data, headers in BODIES:
        answer = await operator.ask("POST", "/api/revocations", data=data, headers=operator.headers | headers)
        assert (answer.status, answer.body["error"]) == (400, "invalid_request"), (data[:40], headers, answer)
        assert set(answer.body["error_description"]) <= {chr(code) for code in range(32, 127)}
    large = json.dumps({"handle": "x" * MAX_BODY_BYTES})
    headers = operator.headers | {"Content-Type": "application/json"}
    assert (await operator.ask("POST", "/api/revocations", data=large, headers=headers)).status == 413


async def test_a_cursor_is_one_that_was_given(operator: Operator) -> None:
    """Nonsense in its place is refused, never taken for the beginning."""
    for path in (each.path for each in API if "query" in each.types):
        for cursor in ("nonsense", "-1.x", "1" * 30 + ".x", LONG, "é", "1-2", "1-2-99", "GID_x@@@", "\0"):
            answer = await operator.get(path, cursor=cursor)
            assert (answer.status, answer.body["error"]) == (400, "invalid_request"), (path, cursor, answer)


async def test_long_and_odd_names_are_no_fault_of_the_server(operator: Operator) -> None:
    """Ten thousand characters, controls or half a UTF-8 character in any filter: 400 or 404, in plain characters."""
    filters = {"/api/tokens": ("client_id", "role", "topic"), "/api/audit": ("client_id", "who", "what", "handle")}
    for odd in (LONG, "a\0b", "a\nb", "é", "*", "#", "../keys", "{ops}"):
        for path, names in filters.items():
            for name in names:
                answer = await operator.get(path, **{name: odd})
                free = path == "/api/audit" and name in {"who", "client_id"} and odd != LONG
                assert answer.status == (200 if free else 400), (path, name, odd, answer)
    for path in ("/api/devices/", "/api/tokens/", "/api/jobs/"):
        for odd in ("x" * 4000, "a%00b", "%ff", "%ed%a0%80", "%2e%2e", "a%2fb", "*"):
            answer = await operator.get(path + odd)
            assert answer.status == 404, (path, odd, answer)
            assert len(answer.body["error_description"]) < 200


async def test_the_api_is_described_by_its_own_types(operator: Operator) -> None:
    """Each endpoint is in /openapi.json, with what it takes and returns; every reference leads somewhere."""
    document = (await operator.ask("GET", "/openapi.json", headers={})).body
    paths = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert paths == {(each.method, each.path) for each in API}
    revoke = document["paths"]["/api/revocations"]["post"]
    assert set(revoke["responses"]) == {"200", "202", "default"}
    assert document["components"]["schemas"]["NewRevocation"]["additionalProperties"] is False
    names = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    assert len(names) == len(API)
    for reference in _references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [each for value in part.values() for each in _references(value)]
    return [each for value in part for each in _references(value)] if isinstance(part, list) else []
