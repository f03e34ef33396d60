from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from aiohttp.test_utils import TestClient

from tests.callers import Caller, read
from tests.waiting import until
from tests.web.operators import Operator

PATHS = ["/", "/healthz", "/readyz", "/.well-known/oauth-authorization-server", "/nothing", "/oauth/token"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_has_an_id_and_the_servers_time(server: TestClient[Any, Any], path: str) -> None:
    """A device without a clock sets itself by any answer, and any answer can be found in the log."""
    async with server.get(path) as response:
        assert abs(int(response.headers["X-Timestamp"]) - time.time()) < 5
        assert len(response.headers["X-Request-ID"]) == 16
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_what_is_not_there_is_told_as_json(server: TestClient[Any, Any]) -> None:
    """A wrong address or method gets the one form of error, with the cure."""
    async with server.get("/nothing") as response:
        answer = await read(response)
    assert (answer.status, answer.body["error"]) == (404, "not_found")
    async with server.get("/oauth/token") as response:
        answer = await read(response)
    assert (answer.status, answer.body["error"]) == (405, "method_not_allowed")
    assert "POST" in answer.body["error_description"]


async def test_a_request_id_is_kept_unless_it_could_forge_a_line(server: TestClient[Any, Any]) -> None:
    """A caller's ID is echoed if it is plain, and replaced if it is long or strange."""
    for given, kept in (("abc-1.2_3", True), ("x" * 65, False), ("a b", False), ('a","b', False)):
        async with server.get("/healthz", headers={"X-Request-ID": given}) as response:
            assert (response.headers["X-Request-ID"] == given) is kept


async def test_no_log_line_holds_a_secret(caller: Caller) -> None:
    """Neither proof nor token is in any line, whether the request went well or not."""
    assertion = caller.assertion()
    with structlog.testing.capture_logs() as lines:
        token = (await caller.token(assertion)).body
        await caller.token(assertion)
        await caller.introspect(token["access_token"])
        await caller.revoke(token["access_token"])
        await caller.token_by_basic("x" * 40)
    text = json.dumps(lines, default=repr)
    assert token["handle"] in text
    for secret in (assertion, caller.key, *(each["token"] for each in token["mqtt"]["tokens"])):
        assert secret not in text
    assert {"audit", "request"} <= {line["event"] for line in lines}


async def test_no_log_line_holds_what_was_put_into_a_path(server: TestClient[Any, Any]) -> None:
    """An address is logged as the route table has it, for a token or a password may have been pasted into it."""
    secret = "R|LzMT+XLFl5s/YWJ/MlDz4t"
    paths = ["/api/tokens/{}", "/api/devices/{}/disable", "/oauth/token/{}", "/{}", "/api/tokens?x={}"]
    with structlog.testing.capture_logs() as lines:
        for path in paths:
            for method in ("GET", "POST"):
                async with server.request(method, path.format(quote(secret, safe="")), allow_redirects=False):
                    pass
        async with server.get("/oauth/token"):
            pass
    shown = [line["path"] for line in lines if line["event"] == "request"]
    assert shown[:4] == ["/api/tokens/{handle}", "(unknown)", "(unknown)", "/api/devices/{client_id}/disable"]
    assert shown[-1] == "/oauth/token"
    text = json.dumps(lines, default=repr)
    assert not [part for part in re.split(r"\W", secret) if len(part) > 3 and part in text]


async def test_a_token_in_the_wrong_place_is_written_nowhere(caller: Caller, server: TestClient[Any, Any]) -> None:
    """A password pasted where a scope, a role or a client ID belongs is refused with it, and written down without."""
    token = "R|LzMTXLFl5sYWJMlDz4tLq5HC1iGU1P28"
    operator = await Operator.of(server)
    with structlog.testing.capture_logs() as lines:
        await caller.token(scope=token)
        for name in ("client_id", "role", "topic"):
            assert (await operator.get("/api/tokens", **{name: token})).status == 400
            assert (await operator.post("/api/revocations", {name: token})).status == 400

        async def audit_log() -> list[dict[str, Any]]:
            return await operator.all("/api/audit", what="refused")

        await until(audit_log, "the refusal in the trail")
    assert len([line for line in lines if line["event"] == "request" and line["status"] == 400]) == 7
    assert token[2:] not in json.dumps(lines, default=repr) + json.dumps(await audit_log())
