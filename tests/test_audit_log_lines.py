"""Every event is one line of an instance's log: real instances, and the command line, the API and the console."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import pytest

from app.assembly import AdminServices, open_admin_services
from app.cli import setup
from app.model.api_keys import Right
from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.model.selections import Selection
from app.service.audit import AuditFilter
from app.service.registry import Registration
from app.store.audit import AuditEntry, EventKind
from app.store.jobs import Job
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.processes import Dev, running_dev
from tests.waiting import until

PASSWORD: Final = "correct horse battery staple"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Two instances, one Valkey, one sandbox."""
    with running_dev(tmp_path_factory.mktemp("events") / "state", "--instances", "2") as dev:
        yield dev


@dataclass(frozen=True)
class Site:
    """The running instances, and their surfaces."""

    dev: Dev
    cloud: Cloud
    office: AdminServices
    session: aiohttp.ClientSession
    caller: Caller

    @property
    def server(self) -> str:
        """Where the first instance listens."""
        return str(self.dev.json["server"])

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines ``audit`` of all instances."""
        texts = [path.read_text() for path in (self.dev.state / "logs").iterdir()]
        lines = [json.loads(line) for text in texts for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "audit"]

    async def entries(self) -> list[AuditEntry]:
        """Return all entries of the audit."""
        return (await self.office.audit_log.search_events(AuditFilter(), limit=1000)).entries

    async def until_shipped(self, *kinds: EventKind) -> None:
        """Wait until events of these kinds are in the audit, and each of its entries is in the log."""

        async def is_shipped() -> bool:
            entries = await self.entries()
            happened = {entry.what for entry in entries}
            return set(kinds) <= happened and {entry.id for entry in entries} <= {line["id"] for line in self.lines()}

        await until(is_shipped, f"{', '.join(kinds)} in the log")


@pytest.fixture
async def site(dev: Dev) -> AsyncIterator[Site]:
    """The running instances, with a device of the test's own."""
    settings = setup.settings(dev.state)
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_admin_services(settings, actor=CLI))
        session = await stack.enter_async_context(aiohttp.ClientSession(dev.json["server"]))
        cloud = Cloud(dev.json["sandbox"], await stack.enter_async_context(aiohttp.ClientSession()))
        client_id = f"GID_plant@@@{os.urandom(4).hex()}"
        added = await office.registry.add_device(Registration(client_id), actor=CLI)
        assert added.secret is not None
        caller = Caller(session, dev.json["issuer"], client_id, added.secret.reveal())
        yield Site(dev, cloud, office, session, caller)


async def api(site: Site, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Call the API with a new key."""
    name = f"k{os.urandom(4).hex()}"
    key = (await site.office.api_keys.add_api_key(name, [Right.ADMIN], actor=CLI)).text.reveal()
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": name}
    async with site.session.request(method, path, json=body, headers=headers) as answer:
        assert answer.status < 300, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def console(site: Site, *steps: tuple[str, dict[str, str]]) -> None:
    """Sign in as a new admin, send forms, and sign out."""
    name = f"a{os.urandom(4).hex()}"
    await site.office.operators.add_operator(name, OperatorRole.ADMIN, Password(PASSWORD), actor=CLI)
    jar = aiohttp.CookieJar(unsafe=True)
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": site.server}
    sign_in = ("/admin/sign-in", {"name": name, "password": PASSWORD})
    async with aiohttp.ClientSession(site.server, cookie_jar=jar, headers=headers) as session:
        for path, form in (sign_in, *steps, ("/admin/sign-out", {})):
            async with session.post(path, data=form) as answer:
                assert answer.status < 400, (path, await answer.text())


async def test_every_kind_of_event_is_in_the_log_once(site: Site) -> None:
    """Whoever did it and wherever: with the entry's ID, and the request's where there was one."""
    registry, caller = site.office.registry, site.caller
    token = (await caller.token()).body
    await caller.token(scope="pub:elsewhere/x")
    await caller.revoke(token["handle"])
    await registry.rotate_key(caller.client_id, grace_s=60, actor=CLI)
    await registry.update_device(caller.client_id, role="", attributes={}, note="n", actor=CLI)
    await api(site, "POST", f"/api/devices/{caller.client_id}/disable")
    await api(site, "POST", f"/api/devices/{caller.client_id}/enable")
    await api(site, "DELETE", f"/api/devices/{caller.client_id}")
    job = await site.office.revocations.revoke_selection(Selection.of_role("sensor"), actor=CLI)
    assert isinstance(job, Job)
    other = await registry.add_device(Registration("GID_plant@@@other"), actor=CLI)
    await console(
        site,
        (f"/admin/devices/{other.device.client_id}/disable", {}),
        (f"/admin/devices/{other.device.client_id}/credential/register", {}),
        ("/admin/groups", {"group_id": "GID_new"}),
    )
    await site.until_shipped(
        *(EventKind.GRANTED, EventKind.REFUSED, EventKind.REVOKED, EventKind.CONFIRMED),
        *(EventKind.DEVICE_ADDED, EventKind.DEVICE_ROTATED, EventKind.DEVICE_CHANGED, EventKind.DEVICE_DISABLED),
        *(EventKind.DEVICE_ENABLED, EventKind.DEVICE_REMOVED, EventKind.JOB_STARTED, EventKind.JOB_DONE),
        *(EventKind.KEY_ADDED, EventKind.OPERATOR_ADDED, EventKind.SIGNED_IN, EventKind.SIGNED_OUT),
        *(EventKind.CREDENTIAL_REGISTERED, EventKind.GROUP_CREATED),
    )
    lines = {line["id"]: line for line in site.lines()}
    assert set(Counter(line["id"] for line in site.lines()).values()) == {1}
    entries = await site.entries()
    assert lines.keys() == {entry.id for entry in entries}
    for entry in entries:
        line = lines[entry.id]
        assert (line["who"], line["what"], line["client_id"]) == (entry.who, entry.what, entry.client_id)
        assert (line["handle"], line["detail"]) == (entry.handle, entry.detail)
        assert line.get("request_id", "") == entry.request_id
    by_api = next(line for line in lines.values() if line["what"] == "device_disabled")
    assert by_api["request_id"] == by_api["who"].removeprefix("key:")
    assert by_api["revoked"] == 0
    granted = next(line for line in lines.values() if line["handle"] == token["handle"] and line["what"] == "granted")
    assert granted["detail"] == token["scope"]
    assert granted["request_id"]


async def test_an_event_of_an_instance_that_is_killed_right_after_it_is_in_the_log(site: Site) -> None:
    """Also if that instance shipped: the other goes on, under the same IDs."""
    for at in (0, 1):
        instance = site.dev.json["instances"][at]
        name = f"k{os.urandom(4).hex()}"
        key = (await site.office.api_keys.add_api_key(name, [Right.ADMIN], actor=CLI)).text.reveal()
        url = f"{instance['url']}/api/devices/{site.caller.client_id}/enable"
        async with site.session.post(url, headers={"Authorization": f"Bearer {key}"}) as answer:
            assert answer.status == 200
        os.kill(instance["pid"], signal.SIGKILL)
        await site.until_shipped()
        assert f"key:{name}" in {line["who"] for line in site.lines() if line["what"] == "device_enabled"}

        async def is_back(url: str = str(instance["url"])) -> bool:
            try:
                async with site.session.get(f"{url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until(is_back, "the instance back")
    await asyncio.gather(*(site.caller.token() for _ in range(3)))
    await site.until_shipped()
    by_id: dict[str, set[str]] = {}
    for line in site.lines():
        by_id.setdefault(line["id"], set()).add(json.dumps({**line, "timestamp": ""}, sort_keys=True))
    assert {len(said) for said in by_id.values()} == {1}
    assert by_id.keys() == {entry.id for entry in await site.entries()}
