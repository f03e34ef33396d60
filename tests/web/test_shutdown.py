from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from structlog.testing import capture_logs

from app.assembly import runner
from app.service.registry import Registration, Registry
from app.settings import Settings
from app.web.route import SERVICES
from app.web.shutdown import Runner
from tests.actors import CLI
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import ISSUER, OwnCloud


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[tuple[Runner, aiohttp.ClientSession]]:
    """Run an instance as `serve` does, and a client of it; the test ends the instance itself."""
    instance = runner(settings)
    await instance.setup()
    await web.TCPSite(instance, "127.0.0.1", 0).start()
    host, port = instance.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield instance, session


async def register(registry: Registry, session: aiohttp.ClientSession, client_id: str) -> Caller:
    """Register a device that calls the instance behind ``session``."""
    added = await registry.add_device(Registration(client_id), actor=CLI)
    assert added.secret is not None
    return Caller(session, ISSUER, client_id, added.secret.reveal())


async def test_a_full_garbage_collection_does_not_look_at_what_was_there_at_the_start(settings: Settings) -> None:
    """Else it would hold up all requests for longer than a permit is valid."""
    gc.unfreeze()
    async with listening(settings) as (instance, _):
        assert gc.get_freeze_count() > len(gc.get_objects())
        await instance.stop_at_once()
    gc.unfreeze()


async def test_an_instance_that_leaves_says_so_and_finishes_what_it_began(
    settings: Settings, registry: Registry, cloud: OwnCloud
) -> None:
    """While draining /readyz is 503, requests are served on connections that close, and none is left unanswered."""
    async with listening(settings.model_copy(update={"drain_s": 1.0})) as (instance, session):
        caller = await register(registry, session, "GID_plant@@@d1")
        await cloud.fault("ApplyToken", "hold", times=2)
        begun = asyncio.create_task(caller.token())
        await cloud.until_held(2)
        leaving = asyncio.create_task(instance.cleanup())

        async def unready() -> bool:
            async with session.get("/readyz") as response:
                is_leaving = (await response.json())["checks"].get("instance", {}).get("status") == "not ready"
                return is_leaving and response.status == 503 and response.headers["Connection"] == "close"

        await until(unready, "unready while draining", within_s=1)
        assert (await caller.introspect("x")).body == {"active": False}
        await cloud.release()
        assert (await begun).status == 200
        await leaving
        assert instance.sites == set()


async def test_a_lead_is_handed_over_at_once(settings: Settings, registry: Registry, cloud: OwnCloud) -> None:
    """An instance that stops in mid-application gives up its lead: another takes over without waiting for the lease."""
    hasty = settings.model_copy(update={"drain_s": 0.0, "request_deadline_s": 1.0})
    async with listening(hasty) as (leaver, session), listening(settings) as (stayer, other_session):
        caller = await register(registry, session, "GID_plant@@@d1")
        other = Caller(other_session, ISSUER, caller.client_id, caller.key)
        await cloud.fault("ApplyToken", "hold", times=2)
        assert (await caller.token()).status == 503
        waiting = asyncio.create_task(other.token())
        left_at = asyncio.get_running_loop().time()
        await leaver.cleanup()
        assert (await waiting).status == 200
        assert asyncio.get_running_loop().time() - left_at < 2
        await cloud.release()
        await stayer.stop_at_once()


async def test_what_an_instance_does_last_is_in_its_log_when_it_has_stopped(settings: Settings) -> None:
    """A token, and a refusal that was not written to the audit yet: no other instance need come to log them."""
    with capture_logs() as logs:
        async with listening(settings.model_copy(update={"drain_s": 0.0})) as (instance, session):
            caller = await register(instance.app[SERVICES].registry, session, "GID_plant@@@d1")
            assert (await caller.token()).status == 200
            assert (await caller.token(scope="pub:elsewhere/d1")).status == 400
            await instance.cleanup()
    shipped = [entry["what"] for entry in logs if entry["event"] == "audit"]
    assert sorted(shipped) == ["device_added", "granted", "refused"]
