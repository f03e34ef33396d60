from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.assembly import build
from app.cloud import credentials
from app.model.secrets import AccessKeySecret, Secret
from app.sandbox.access_keys import AccessKey
from app.service.registry import Registration, Registry
from app.settings import Settings
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import ACCESS_KEY_ID, ACCESS_KEY_SECRET, ISSUER


@pytest.fixture
def access_key() -> AccessKey:
    """A temporary one, which must be sent with its STS token."""
    return AccessKey(AccessKeySecret(ACCESS_KEY_SECRET), security_token=Secret("sts+token/="))


async def test_an_instance_lives_on_credentials_from_a_uri(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While their source fails a device gets 503 and when to ask again; once it gives a key, a token."""
    monkeypatch.setattr(credentials, "FIRST_BACK_OFF_S", 0.05)
    works = False

    async def give(_request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {"Code": "Success", "AccessKeyId": ACCESS_KEY_ID, "AccessKeySecret": ACCESS_KEY_SECRET}
        given |= {"SecurityToken": "sts+token/=", "Expiration": "2099-12-31T00:00:00Z"}
        return web.json_response(given, status=200 if works else 500)

    source = web.Application()
    source.router.add_get("/", give)
    async with TestServer(source) as uri:
        changes = {
            "alibaba_cloud_access_key_id": "",
            "alibaba_cloud_access_key_secret": AccessKeySecret(""),
            "alibaba_cloud_credentials_uri": Secret(str(uri.make_url("/"))),
            "mqtt_access_key_id": ACCESS_KEY_ID,
            "request_deadline_s": 1.0,
        }
        async with TestClient(TestServer(build(settings.model_copy(update=changes)))) as server:
            services = server.app[SERVICES]
            registry = Registry(services.stores.devices, services.policies, services.stores.redis.clock)
            added = await registry.add_device(Registration("GID_plant@@@d1"), actor=CLI)
            assert added.secret
            caller = Caller(server, ISSUER, "GID_plant@@@d1", added.secret.reveal(), "HS256")
            refused = await caller.token()
            assert (refused.status, refused.body["error"]) == (503, "temporarily_unavailable")
            assert int(refused.headers["Retry-After"]) >= 1
            works = True

            async def served() -> bool:
                return (await caller.token()).status == 200

            await until(served, "a token once there are credentials")
