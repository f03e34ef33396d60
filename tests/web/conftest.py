"""A server in this process, on a real Valkey and a real sandbox, with registered devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from app.assembly import build
from app.model.devices import Algorithm
from app.model.secrets import AccessKeySecret
from app.sandbox.access_keys import AccessKey
from app.sandbox.server import Sandbox, SandboxConfig, start_sandbox
from app.service.registry import Registration, Registry
from app.settings import Settings
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.sealing_keys import new_key_text
from tests.waiting import connect_all

ISSUER = "https://tokens.example"
ACCESS_KEY_ID = "test-access-key"
ACCESS_KEY_SECRET = "test-access-key-secret"
INSTANCE_ID = "mqtt-test"
POLICY = """
[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/all"]

[roles.line]
publish = ["plant/{attr.line}/#"]
subscribe = ["plant/{attr.line}/#"]
default_lifetime_s = 600
max_lifetime_s = 1200
"""

MakeCaller = Callable[..., Awaitable[Caller]]


class OwnCloud(Cloud):
    """A sandbox in this process."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        super().__init__(f"http://127.0.0.1:{sandbox.port}", session)
        self.mqtt_port = sandbox.mqtt_port


@pytest.fixture
def access_key() -> AccessKey:
    """What the server's access key may do at the cloud: everything."""
    return AccessKey(AccessKeySecret(ACCESS_KEY_SECRET))


@pytest.fixture
async def cloud(tmp_path: Path, access_key: AccessKey) -> AsyncIterator[OwnCloud]:
    """A sandbox of this test's own."""
    config = SandboxConfig(
        host="127.0.0.1",
        port=0,
        mqtt_port=0,
        database=tmp_path / "sandbox.db",
        instance_id=INSTANCE_ID,
        access_keys={ACCESS_KEY_ID: access_key},
        region="cn-hangzhou",
        groups=("GID_plant",),
    )
    sandbox = await start_sandbox(config)
    async with aiohttp.ClientSession() as session:
        yield OwnCloud(sandbox, session)
    await sandbox.stop()


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """The policy file of the server."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def settings(redis_url: str, policy_file: Path, cloud: OwnCloud) -> Settings:
    """The settings of the server; high quotas, for nothing is to wait for them here."""
    return Settings.load(
        {
            "ISSUER_URL": ISSUER,
            "REDIS_URL": redis_url,
            "POLICY_FILE": str(policy_file),
            "SEALING_KEYS": new_key_text("k1").reveal(),
            "CLOUD_ENDPOINT": cloud.url,
            "CLOUD_INSTANCE_ID": INSTANCE_ID,
            "ALIBABA_CLOUD_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": ACCESS_KEY_SECRET,
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": str(cloud.mqtt_port),
            "MQTT_TLS": "false",
            "APPLY_TOKEN_QPS": "1000",
            "QUERY_TOKEN_QPS": "1000",
            "REVOKE_TOKEN_QPS": "1000",
            "EGRESS_QPS": "1000",
        }
    )


@asynccontextmanager
async def connected_server(settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    """An instance that listens, and whose connections to Redis are made."""
    async with TestClient(TestServer(build(settings))) as client:
        await connect_all(client.app[SERVICES].stores.redis)
        yield client


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    """One instance, listening."""
    async with connected_server(settings) as client:
        yield client


@pytest.fixture
async def other_server(settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    """Another instance on the same Redis."""
    async with connected_server(settings) as client:
        yield client


@pytest.fixture
def registry(server: TestClient[Any, Any]) -> Registry:
    """The registry the server reads."""
    services = server.app[SERVICES]
    # A cache of its own, as the command line has: the server must notice changes by itself.
    return Registry(
        type(services.stores.devices)(services.stores.redis, services.stores.keys),
        services.policies,
        services.stores.redis.clock,
    )


@pytest.fixture
def make_caller(server: TestClient[Any, Any], registry: Registry) -> MakeCaller:
    """A function that registers a device and returns it as a caller."""

    async def make(
        client_id: str = "GID_plant@@@d1", algorithm: Algorithm = Algorithm.HS256, **registration: Any
    ) -> Caller:
        added = await registry.add_device(Registration(client_id, algorithm=algorithm, **registration), actor=CLI)
        key = added.secret or added.private_key or registration.get("secret")
        assert key is not None
        return Caller(server, ISSUER, client_id, key.reveal(), algorithm.value)

    return make


@pytest.fixture
async def caller(make_caller: MakeCaller) -> Caller:
    """A registered device."""
    return await make_caller()
