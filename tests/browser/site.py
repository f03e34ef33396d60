"""A console with data: two instances of `dev`, with the content of a real set-up, unusual values included."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis.asyncio
from structlog.testing import capture_logs

from app.assembly import AdminServices, open_admin_services
from app.cloud.client import CloudClient
from app.cloud.quota import QuotaUnreachable
from app.embedded.example import read_settings
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.devices import Algorithm
from app.model.operators import OperatorRole
from app.model.secrets import ClientSecret, Password
from app.service.registry import Registration
from app.service.revocations import select
from app.settings import Settings
from app.store.jobs import Job
from app.store.records import TokenRecord
from app.store.redis_keys import Shard
from app.upstream import open_cloud_alone
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.processes import Dev, running_dev
from tests.waiting import until

PASSWORD: Final = "correct horse battery"
VIEWER, OPERATOR, ADMIN, SENT_OUT = "vera", "otto", "ada", "lena"
"""The operators, one of each role; the last one is an operator whose sessions a test ends."""

LONG_ID: Final = "GID_plant@@@press-shop-7_line-12_robot-cell-3_axis-controller-04"
"""A client ID of the maximum length: 64 characters."""

GATEWAY_ID: Final = "GID_plant@@@gateway:hall-4"
DISABLED_ID: Final = "GID_plant@@@d-retired"
NEW_ID: Final = "GID_plant@@@d-never-seen"
NOTES: Final = (
    '<b>Bold</b> 三号车间的传感器 & "quoted" <script>alert(1)</script>',
    "replaced by d17",
    "example of dev",
)
"""Notes of devices, in several languages."""


_POLICY: Final = """
[roles.sensor]
match = ["GID_plant@@@d*"]
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/all"]
default_lifetime_s = 3600
max_lifetime_s = 86400

[roles.meter]
match = ["GID_plant@@@m*"]
publish = ["meters/{device_id}/up"]
subscribe = ["meters/all"]

[roles.valve]
match = ["GID_plant@@@v*"]
publish = ["valves/{device_id}/state"]
subscribe = ["valves/{device_id}/orders"]

[roles.press]
match = ["GID_plant@@@press-*"]
publish = ["p/{device_id}/up/#"]
subscribe = ["p/{device_id}", "plant/all"]

[roles.dashboard]
publish = ["plant/+/down/#", "plant/all"]
subscribe = ["plant/+/up/#"]

[roles.gateway]
publish = [BUILDINGS]
subscribe = ["site/{attr.site}/down/#", "plant/all"]
default_lifetime_s = 7200
"""
_BUILDINGS: Final = [f"site/{{attr.site}}/building-{number:02}/floor-{number % 4}/up/#" for number in range(24)]
_READINGS: Final = 55
"""Sensors with a live token: more than one page."""


@dataclass
class Site:
    """A running console; ``paths`` has an example for each variable of a path."""

    dev: Dev
    paths: dict[str, str] = field(default_factory=dict)

    @cached_property
    def url(self) -> str:
        """The URL of the console."""
        return str(self.dev.json["server"])

    @property
    def other_url(self) -> str:
        """The other instance, whose URL does not accept forms but shows the same data."""
        return str(self.dev.json["instances"][1]["url"])

    @cached_property
    def settings(self) -> Settings:
        """The settings of the instances."""
        return Settings.load(read_settings(self.dev.state / "settings.env"))

    @contextlib.asynccontextmanager
    async def office(self) -> AsyncIterator[AdminServices]:
        """The services, as the command line uses them."""
        with capture_logs():  # so that log entries do not appear in the test's output
            async with open_admin_services(self.settings, actor=Actor("cli:maria")) as office:
                yield office

    @contextlib.asynccontextmanager
    async def cloud(self) -> AsyncIterator[Cloud]:
        """The sandbox's controls."""
        async with aiohttp.ClientSession() as session:
            yield Cloud(self.dev.json["sandbox"], session)

    async def register(self, client_id: str, **registration: Any) -> str:
        """Register a device; return its secret."""
        async with self.office() as office:
            added = await office.registry.add_device(Registration(client_id, **registration), actor=CLI)
        return added.secret.reveal() if added.secret else ""

    async def token(self, client_id: str, secret: str, **parameters: str) -> dict[str, Any]:
        """Request a token as a device does."""
        async with aiohttp.ClientSession(self.url) as session:
            answer = await Caller(session, self.url, client_id, secret).token(**parameters)
        assert answer.status == 200, answer.body.get("error_description")
        return answer.body

    async def handle(self, client_id: str) -> str:
        """Return the handle of the device's live token."""
        async with self.office() as office:
            page = await office.revocations.list_tokens(select(client_id=client_id))
        return str(page.records[0].handle)


@contextlib.contextmanager
def running_site(state: Path) -> Iterator[Site]:
    """Run it."""
    state.mkdir(mode=0o700)
    (state / "policy.toml").write_text(_POLICY.replace("[BUILDINGS]", json.dumps(_BUILDINGS)))
    with running_dev(state, "--instances", "2") as dev:
        site = Site(dev)
        asyncio.run(_fill(site))
        yield site


async def _fill(site: Site) -> None:
    async with site.office() as office, site.cloud() as cloud, aiohttp.ClientSession(site.url) as session:
        roles = {
            VIEWER: OperatorRole.VIEWER,
            OPERATOR: OperatorRole.OPERATOR,
            ADMIN: OperatorRole.ADMIN,
            SENT_OUT: OperatorRole.OPERATOR,
        }
        for name, role in roles.items():
            await office.operators.add_operator(name, role, Password(PASSWORD), actor=CLI)
        await office.api_keys.add_api_key("billing", [Right.INTROSPECT], actor=CLI)
        await office.api_keys.add_api_key("ops-automation_eu-central", list(Right), actor=CLI)

        example = site.dev.json["device"]
        fleet = {example["client_id"]: example["secret"]}
        fleet |= {client_id: await _add(office, client_id) for client_id in _names("d", _READINGS)}
        fleet |= {client_id: await _add(office, client_id) for client_id in _names("m", 6)}
        fleet[LONG_ID] = await _add(office, LONG_ID, note=NOTES[0])
        fleet[GATEWAY_ID] = await _add(office, GATEWAY_ID, role="gateway", attributes={"site": "suzhou-2"}, note="网关")
        await _add(office, NEW_ID, algorithm=Algorithm.ES256)
        retired = {DISABLED_ID: await _add(office, DISABLED_ID, note=NOTES[1])}
        callers = [Caller(session, site.url, client_id, secret) for client_id, secret in (fleet | retired).items()]
        for few in range(0, len(callers), 10):
            answers = await asyncio.gather(*(caller.token() for caller in callers[few : few + 10]))
            assert [answer.status for answer in answers] == [200] * len(answers)

        await office.registry.disable_device(DISABLED_ID, actor=CLI)
        meters = await office.revocations.revoke_selection(select(role="meter"), actor=office.actor)
        assert isinstance(meters, Job)
        failed = await _fail(site, office, cloud, "GID_plant@@@d54")
        revoked = await _confirm(office, "GID_plant@@@d53")

        async def done() -> int:
            return (await office.jobs.get_job(meters.id)).done_at_ms

        await until(done, "the job's end")
        # Refusals of an unauthenticated caller and of a device, so that the audit log has both kinds.
        await Caller(session, site.url, "GID_plant@@@nobody", "x" * 40).token()
        await callers[0].token(scope="pub:plant/other/up")
        async with open_cloud_alone(site.settings) as client:
            for group in ("GID_lab", "GID_assembly-line_cn-hangzhou-east-building-7-of-the-plant-2026"):
                await until(partial(_create, client, group), f"the group {group}")
        live = (await office.revocations.list_tokens(select(client_id=LONG_ID))).records[0]
        site.paths |= {
            "handle": live.handle,
            "revoked_handle": revoked.handle,
            "failed_handle": failed.handle,
            "client_id": LONG_ID,
            "disabled_id": DISABLED_ID,
            "gateway_id": GATEWAY_ID,
            "job": meters.id,
            "name": OPERATOR,
            "key": "ops-automation_eu-central",
            "group_id": "GID_lab",
            "action": "SendMessage",
        }


async def _create(client: CloudClient, group: str) -> bool:
    """Create a group; returns whether that succeeded: on a busy machine the wait for the quota may time out."""
    try:
        await client.create_group_id(group, deadline=asyncio.get_running_loop().time() + 10)
    except QuotaUnreachable:
        return False
    return True


def _names(letter: str, count: int) -> list[str]:
    return [f"GID_plant@@@{letter}{number:02}" for number in range(count)]


async def _add(office: AdminServices, client_id: str, **registration: Any) -> str:
    added = await office.registry.add_device(Registration(client_id, **registration), actor=CLI)
    return added.secret.reveal() if isinstance(added.secret, ClientSecret) else ""


async def _confirm(office: AdminServices, client_id: str) -> TokenRecord:
    """Revoke a device's token, and wait until the cloud has confirmed."""
    record = (await office.revocations.list_tokens(select(client_id=client_id))).records[0]
    await office.revocations.revoke_selection(select(handle=record.handle), actor=office.actor)

    async def confirmed() -> bool:
        return (await office.revocations.get_token(record.handle)).revocation == "confirmed"

    await until(confirmed, "the revocation to be confirmed")
    return record


async def _fail(site: Site, office: AdminServices, cloud: Cloud, client_id: str) -> TokenRecord:
    """Make a revocation fail permanently, by setting its number of attempts to one below the maximum."""
    record = (await office.revocations.list_tokens(select(client_id=client_id))).records[0]
    async with redis.asyncio.Redis.from_url(site.dev.json["redis"]) as client:
        await client.hset(Shard.of(client_id).token(record.handle), "attempts", "29")
    await cloud.fault("RevokeToken", "error", code="PermissionCheckFailed", times=None)
    await office.revocations.revoke_selection(select(handle=record.handle), actor=office.actor)

    async def failed() -> bool:
        return (await office.revocations.get_token(record.handle)).revocation == "failed"

    await until(failed, "the revocation to fail")
    await cloud.clear()
    return record
