from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.cloud.chain import Chain, Sources
from app.cloud.credentials import NoCredentials, RenewedCredentials
from app.model.secrets import Secret
from app.tasks import end, in_thread
from tests.cloud.conftest import soon

GIVEN = {
    "Code": "Success",
    "AccessKeyId": "STS.uri",
    "AccessKeySecret": "very-secret",
    "SecurityToken": "very-secret-token",
    "Expiration": "2099-12-31T00:00:00Z",
}


class CredentialsServer:
    """What ALIBABA_CLOUD_CREDENTIALS_URI names: a real HTTP server that answers what and when the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.status = 200
        self.body: object = GIVEN
        self.open = asyncio.Event()
        self.open.set()

    async def handle(self, _request: web.Request) -> web.StreamResponse:
        """Answer."""
        self.asked += 1
        await self.open.wait()
        return web.json_response(self.body, status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[CredentialsServer]:
    """Run the server for one test."""
    server = CredentialsServer()
    app = web.Application()
    app.router.add_get("/credentials", server.handle)
    async with TestServer(app, shutdown_timeout=0) as running:
        server.url = f"http://127.0.0.1:{running.port}/credentials"
        yield server


async def test_a_slow_uri_is_asked_once_and_stalls_nothing(server: CredentialsServer, tmp_path: Path) -> None:
    """Fifty callers at a slow credentials URI cost one request, while the loop that serves it goes on."""
    chain = Chain(Sources(credentials_uri=Secret(server.url)), tmp_path)
    provider = RenewedCredentials(chain.fetch, lambda: int(time.time() * 1000))
    server.open.clear()
    task = asyncio.create_task(provider.run())
    callers = [asyncio.create_task(provider.get(deadline=soon())) for _ in range(50)]
    for _ in range(40):
        began = time.monotonic()
        await asyncio.sleep(0.005)
        assert time.monotonic() - began < 0.5
    assert not any(caller.done() for caller in callers)
    server.open.set()
    given = {await caller for caller in callers}
    await end([task])
    assert server.asked == 1
    [credentials] = given
    assert credentials.access_key_id == "STS.uri"
    assert credentials.access_key_secret.reveal() == "very-secret"
    assert credentials.security_token == Secret("very-secret-token")
    assert "very-secret" not in repr(credentials)


async def test_each_fetch_asks_the_source_anew(server: CredentialsServer, tmp_path: Path) -> None:
    """The library's own cache does not stand in between; the expiry is the source's."""
    chain = Chain(Sources(credentials_uri=Secret(server.url)), tmp_path)
    for _ in range(2):
        fetched = await in_thread(chain.fetch, name="test")
        assert (fetched.source, fetched.expires_at_ms) == ("URI", 4_102_358_400_000)
    assert server.asked == 2


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, GIVEN, "URI: HTTP 500"),
        (200, {**GIVEN, "Code": "Failed"}, "URI: CredentialException"),
        (200, {**GIVEN, "Expiration": "very-secret"}, "URI: ValueError"),
        (200, {**GIVEN, "AccessKeySecret": ""}, "URI: ValueError"),
        (200, {**GIVEN, "AccessKeyId": 7}, "URI: ValueError"),
        (200, "very-secret", "URI: AttributeError"),
    ],
)
async def test_a_failure_quotes_no_secret(
    server: CredentialsServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: object,
    reason: str,
) -> None:
    """The cause names source and kind of failure; neither it nor what the library logs holds a part of the answer."""
    server.status, server.body = status, body
    chain = Chain(Sources(credentials_uri=Secret(server.url)), tmp_path)
    with pytest.raises(NoCredentials) as caught, caplog.at_level(logging.DEBUG, "credentials"):
        await in_thread(chain.fetch, name="test")
    assert str(caught.value) == reason
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name == "credentials"] == []


def test_the_order_is_the_ecosystems(tmp_path: Path) -> None:
    """Profiles come before the URI; the one that answered first is asked ever after."""
    write_cli_profile(tmp_path, "LTAIcli")
    write_ini_profile(tmp_path, "LTAIini")
    sources = Sources(credentials_uri=Secret("http://127.0.0.1:1/"))
    chain = Chain(sources, tmp_path)
    fetched = chain.fetch()
    assert (fetched.source, fetched.expires_at_ms) == ("CLI profile", None)
    assert fetched.credentials.access_key_id == "LTAIcli"
    assert fetched.credentials.security_token is None
    disabled = Chain(Sources(cli_profile_disabled=True, credentials_uri=Secret("http://127.0.0.1:1/")), tmp_path)
    assert disabled.fetch().credentials.access_key_id == "LTAIini"


def test_a_broken_source_is_passed_over_and_named_where_none_is_left(tmp_path: Path) -> None:
    """A damaged profile does not hide the next source; if none answers each is named with its failure."""
    write_cli_profile(tmp_path, "LTAIcli")
    (tmp_path / ".aliyun" / "config.json").write_text("{")
    sources = Sources(
        oidc_provider_arn="acs:ram::1:oidc-provider/x",
        oidc_token_file=str(tmp_path / "no such token"),
        role_arn="acs:ram::1:role/x",
        credentials_uri=Secret("http://127.0.0.1:1/"),
    )
    with pytest.raises(NoCredentials) as caught:
        Chain(sources, tmp_path).fetch()
    assert str(caught.value) == "OIDC: FileNotFoundError; CLI profile: CredentialException; URI: RetryError"
    write_ini_profile(tmp_path, "LTAIini")
    assert Chain(sources, tmp_path).fetch().credentials.access_key_id == "LTAIini"


def test_without_any_source_the_chain_is_empty(tmp_path: Path) -> None:
    """Nothing configured, nothing asked: half of OIDC's settings is no source, nor is a disabled role of ECS."""
    assert not Chain(Sources(), tmp_path)
    assert not Chain(Sources(role_arn="x", oidc_token_file="y"), tmp_path)
    assert not Chain(Sources(ecs_metadata="role", ecs_metadata_disabled=True), tmp_path)
    assert Chain(Sources(ecs_metadata="role"), tmp_path)


def write_cli_profile(home: Path, key_id: str) -> None:
    """Write what the vendor's command line keeps."""
    (home / ".aliyun").mkdir()
    profile = {"name": "default", "mode": "AK", "access_key_id": key_id, "access_key_secret": "very-secret"}
    (home / ".aliyun" / "config.json").write_text(json.dumps({"current": "default", "profiles": [profile]}))


def write_ini_profile(home: Path, key_id: str) -> None:
    """Write what the vendor's SDKs read."""
    (home / ".alibabacloud").mkdir()
    (home / ".alibabacloud" / "credentials.ini").write_text(
        f"[default]\ntype = access_key\naccess_key_id = {key_id}\naccess_key_secret = very-secret\n"
    )
