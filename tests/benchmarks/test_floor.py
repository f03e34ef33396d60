from __future__ import annotations

import json
from urllib.parse import parse_qsl

import aiohttp
import pytest

from app.model.secrets import AccessKeySecret
from app.rpc import signature
from tests.benchmarks import floor
from tests.benchmarks.load import request
from tests.benchmarks.site import Site


async def ask(site: Site, server: str, path: str, device: dict[str, str]) -> tuple[int, bytes, str]:
    """Send a request as the load generator does; returns status, body and caching header."""
    issuer = json.loads(site.devices.read_text())["issuer"]
    body = request(path, issuer, device).partition(b"\r\n\r\n")[2]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{site.ports[server]}{path}", data=body, headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers.get("Cache-Control", "")


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/introspect"])
async def test_the_floor_answers_the_same_bytes(running: Site, path: str) -> None:
    """For each device's token the bare server returns the same bytes as ours, within the same second."""
    for device in json.loads(running.devices.read_text())["devices"]:
        before = watermarks = None
        for _ in range(5):  # `expires_in` may change between two responses: then try again
            before = await ask(running, "ours", path, device)
            watermarks = await ask(running, "floor", path, device)
            if before == await ask(running, "ours", path, device):
                break
        assert before is not None
        assert before[0] == 200
        assert device["access_token"].encode() in before[1] or b'"cloud_checked": true' in before[1]
        assert watermarks == before


@pytest.mark.parametrize("server", ["ours", "floor"])
async def test_both_use_an_assertion_once(running: Site, server: str) -> None:
    """Both servers refuse a second request with the same assertion."""
    content = json.loads(running.devices.read_text())
    body = request("/oauth/token", content["issuer"], content["devices"][0]).partition(b"\r\n\r\n")[2]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    statuses = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.ports[server]}") as session:
        for _ in range(2):
            async with session.post("/oauth/token", data=body, headers=headers) as response:
                statuses.append(response.status)
    assert statuses == [200, 401]


@pytest.mark.parametrize("server", ["ours", "floor"])
async def test_both_verify_the_signature(running: Site, server: str) -> None:
    """Both servers refuse an assertion signed with another secret."""
    device = json.loads(running.devices.read_text())["devices"][0] | {"secret": "x" * 43}
    assert (await ask(running, server, "/oauth/token", device))[0] == 401


def test_the_floor_signs_as_the_cloud_verifies() -> None:
    """Its calls carry the signature of guide chapter 5."""
    cloud = {"access_key_id": "id", "access_key_secret": "secret", "instance_id": "i", "region": "cn-hangzhou"}
    sent = dict(parse_qsl(floor.signed({"Action": "QueryToken", "Token": "a+b/c= ~*"}, cloud).decode()))
    text = signature.rpc_string_to_sign("POST", sent)
    assert sent["Signature"] == signature.rpc_signature(AccessKeySecret("secret"), text)
