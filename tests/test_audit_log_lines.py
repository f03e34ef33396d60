"""Every kind of event is in the log once, whoever caused it and wherever, and also if its instance is killed then.

Two instances, Valkey and the sandbox run as processes. All that the table names is done once at one instance, and once
more at the instance that writes the log, which is killed right after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import pytest
import structlog
from argon2 import PasswordHasher

from app.assembly import AdminServices, open_admin_services
from app.cli import setup
from app.cli.main import app as command_line
from app.embedded.example import load_settings
from app.model.api_keys import Right
from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.model.selections import Selection
from app.service.delivery import MAX_ATTEMPTS
from app.service.passwords import Passwords
from app.service.registry import Registration
from app.store.audit import STREAMS, AuditEntry, EventKind, parse_entry
from app.store.jobs import Job, new_job_id
from app.store.redis_keys import Handle, Shard
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.processes import Dev, running_dev
from tests.waiting import until

# The first test waits for all that is done, at a busy machine for half a minute.
pytestmark = pytest.mark.timeout(180)

PASSWORD: Final = "correct horse battery staple"
LONGER_THAN_ANY_TOKEN_MS: Final = 2 * 24 * 3600 * 1000
SETTINGS: Final = {
    "CLOSE_CONNECTION_ON_REVOKE": "true",
    **dict.fromkeys(("APPLY_TOKEN_QPS", "QUERY_TOKEN_QPS", "REVOKE_TOKEN_QPS"), "2000"),
    "EGRESS_QPS": "4000",
}

_PREFIXES: Final = {"cli": "cli:", "api": "key:", "console": "operator:", "device": "device:", "job": "job:"}


@dataclass(frozen=True)
class Site:
    """One running instance of several, and all who act there."""

    dev: Dev
    at: int
    cloud: Cloud
    office: AdminServices
    later: AdminServices
    """The same, with a clock that is ahead by more than any token lives."""
    session: aiohttp.ClientSession
    browser: aiohttp.ClientSession
    """Signed in as an admin."""
    api_key: str
    failed: list[str] = field(default_factory=list)
    """Handles of tokens that the cloud refuses to revoke."""

    async def new_device(self) -> str:
        """Return the client ID of a device that is not registered yet."""
        return f"GID_plant@@@{new_name()}"

    async def device(self) -> str:
        """Register a device, and return its client ID."""
        return (await self.caller()).client_id

    async def token(self) -> str:
        """Have a new device ask for a token, and return the handle."""
        return await token_of(await self.caller())

    async def failed_token(self) -> str:
        """Return the handle of a token whose revocation failed."""
        return self.failed.pop()

    async def credential(self) -> str:
        """Give a new device a credential at the cloud, and return its client ID."""
        return await console("/{device}/credential/register")(self)

    async def name(self) -> str:
        """Return a name that nothing has."""
        return new_name()

    async def job(self) -> str:
        """Return a job ID that no job has; it will do as a role's name too."""
        return new_job_id()

    async def key(self) -> str:
        """Add an API key, and return its name."""
        return (await self.office.api_keys.add_api_key(new_name(), [Right.ADMIN], actor=CLI)).name

    async def operator(self) -> str:
        """Add an operator, and return the name."""
        name = new_name()
        await self.office.operators.add_operator(name, OperatorRole.VIEWER, Password(PASSWORD), actor=CLI)
        return name

    async def group(self) -> str:
        """Return a group ID that does not exist."""
        return f"GID_{new_name()}"

    async def created_group(self) -> str:
        """Create a group ID, and return it."""
        return await console("/admin/groups", group_id="{group}")(self)

    async def caller(self, role: str = "") -> Caller:
        """Register a device, and return it as a caller."""
        added = await self.office.registry.add_device(Registration(await self.new_device(), role), actor=CLI)
        assert added.secret is not None
        return Caller(self.session, self.dev.json["issuer"], added.device.client_id, added.secret.reveal())

    async def revoke(self, handle: str) -> None:
        """Revoke a token as an operator does."""
        await self.office.revocations.revoke_tokens([handle], actor=CLI)

    async def fill(self, *texts: str) -> tuple[str, list[str]]:
        """Replace ``{what}`` in texts by a new one; return that, and the texts."""
        [what] = set(re.findall(r"\{(\w+)\}", " ".join(texts)))
        subject: str = await getattr(self, what)()
        return subject, [text.replace(f"{{{what}}}", subject) for text in texts]

    async def entries(self) -> list[AuditEntry]:
        """Return every entry of every stream."""
        rows = await self.office.stores.redis.background.pipeline([("XRANGE", name, "-", "+") for name in STREAMS])
        return [parse_entry(stream, *row) for stream, of_stream in enumerate(rows) for row in of_stream]

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines ``audit`` of all instances."""
        return [line for at in range(len(self.dev.json["instances"])) for line in lines_of(self.dev, at)]


Way = Callable[[Site], Awaitable[str]]
"""Causes an event, and returns what it is about: a client ID, a handle, a job or a name; or the entry's ID."""


class Row(NamedTuple):
    """A kind of event, who causes it, and how."""

    kind: EventKind
    by: str
    way: Way

    def is_about(self, subject: str, entry: AuditEntry) -> bool:
        """Tell whether an entry is of this kind, by this actor, about the subject."""
        by = _PREFIXES.get(self.by, self.by)
        names = (entry.client_id, entry.handle, entry.job, entry.who.partition(":")[2], entry.id)
        fits = entry.what == self.kind and (entry.who.startswith(by) if by.endswith(":") else entry.who == by)
        return fits and (subject in names or subject in entry.detail)


def cli(verb: str) -> Way:
    """Cause an event by the command line."""

    async def way(site: Site) -> str:
        subject, words = await site.fill(*verb.split())
        with contextlib.redirect_stdout(io.StringIO()):
            await asyncio.to_thread(
                command_line, [*words, "--state", str(site.dev.state)], prog_name="app", standalone_mode=False
            )
        return subject

    return way


def api(route: str, body: str = "null") -> Way:
    """Cause an event by the API, with a body of JSON."""

    async def way(site: Site) -> str:
        subject, [method, path, content] = await site.fill(*route.split(), body)
        headers = {"Authorization": f"Bearer {site.api_key}"}
        async with site.session.request(method, path, json=json.loads(content), headers=headers) as answer:
            assert answer.status < 300, (route, await answer.text())
        return subject

    return way


def console(page: str, **form: str) -> Way:
    """Cause an event by a form of the console; ``page`` may begin at that of a device."""

    async def way(site: Site) -> str:
        address = page if page.startswith("/admin/") else f"/admin/devices{page}"
        subject, [path, *values] = await site.fill(address, *form.values())
        async with site.browser.post(path, data=dict(zip(form, values, strict=True)), allow_redirects=False) as answer:
            assert answer.status < 400, (page, await answer.text())
        return subject

    return way


async def grant_token(site: Site) -> str:
    """A device asks for a token, and gets it."""
    return await site.token()


async def refuse_device(site: Site) -> str:
    """A device asks for what its role does not permit."""
    caller = await site.caller()
    assert (await caller.token(scope="pub:elsewhere/x")).status == 400
    return caller.client_id


async def refuse_stranger(site: Site) -> str:
    """A wrong secret is used for a device."""
    caller = await site.caller()
    assert (await caller.token_by_basic("wrong" * 8)).status == 401
    return caller.client_id


async def refuse_service(site: Site) -> str:
    """A service calls what its key has no right for."""
    made = await site.office.api_keys.add_api_key(new_name(), [Right.INTROSPECT], actor=CLI)
    async with site.session.get("/api/devices", headers={"Authorization": f"Bearer {made.text.reveal()}"}) as answer:
        assert answer.status == 403
    return made.name


async def revoke_own(site: Site) -> str:
    """A device revokes its own token."""
    caller = await site.caller()
    handle = await token_of(caller)
    assert (await caller.revoke(handle)).status == 200
    return handle


async def revoke_as_service(site: Site) -> str:
    """A service revokes a token at the OAuth endpoint."""
    handle = await site.token()
    async with site.session.post(
        "/oauth/revoke", data={"token": handle}, headers={"Authorization": f"Bearer {site.api_key}"}
    ) as answer:
        assert answer.status == 200
    return handle


async def revoke_and_confirm(site: Site) -> str:
    """A token is revoked, and the cloud confirms it."""
    handle = await site.token()
    await site.revoke(handle)
    return handle


async def revoke_by_job(site: Site) -> str:
    """A job revokes the tokens of a role, of which there is one."""
    await token_of(await site.caller("dashboard"))
    return await start_job(site, "dashboard")


async def finish_job(site: Site) -> str:
    """A job revokes the tokens of a role that has none: another job in work would take some as its own."""
    return await start_job(site, new_name())


async def start_job(site: Site, role: str) -> str:
    """Start to revoke the tokens of a role, and return the job's ID."""
    job = await site.office.revocations.revoke_selection(Selection.of_role(role), actor=CLI)
    assert isinstance(job, Job)
    return job.id


async def let_revocation_fail(site: Site) -> str:
    """The cloud refuses to revoke tokens, as often as it is tried: one for this event, others for later."""
    await site.cloud.fault("RevokeToken", "error", code="PermissionCheckFailed", times=None)
    for _ in range(FAILED_TOKENS):
        handle = await site.token()
        key = Shard.of_known_handle(Handle(handle)).token(handle)
        await site.office.stores.redis.requests.command("HSET", key, "attempts", MAX_ATTEMPTS - 1)
        await site.revoke(handle)
        site.failed.append(handle)

    async def all_failed() -> bool:
        records = await site.office.revocations.get_tokens(site.failed)
        return {record.revocation for record in records if record} == {"failed"}

    await until(all_failed, "failed revocations")
    await site.cloud.clear()
    return site.failed.pop()


async def let_revocation_lapse(site: Site) -> str:
    """The cloud cannot be asked before the token is past its life."""
    await site.cloud.fault("RevokeToken", "error", code="ServiceUnavailable", times=None)
    handle = await site.token()
    await site.revoke(handle)
    await site.later.stores.queue.next_shards()
    await site.cloud.clear()
    return handle


async def discard_half(site: Site) -> str:
    """Of a token's two cloud tokens only one is to be had."""
    caller = await site.caller()
    await site.cloud.fault("ApplyToken", "error", code="PermissionCheckFailed", times=1)
    assert (await caller.token()).status == 503
    return caller.client_id


async def take_cloud_away(site: Site) -> str:
    """The cloud answers no call of any instance, and the instances stop calling it."""
    await site.cloud.fault("*", "drop", times=None)
    return await entry_of_breaker(site, EventKind.BREAKER_OPENED)


async def bring_cloud_back(site: Site) -> str:
    """The cloud answers again, and so the instances go on calling it."""
    await site.cloud.clear()
    return await entry_of_breaker(site, EventKind.BREAKER_CLOSED)


async def entry_of_breaker(site: Site, kind: EventKind) -> str:
    """Have new devices ask for tokens at all instances until there is a new entry of this kind; return its ID."""
    known = {entry.id for entry in await site.entries()}
    found: list[str] = []

    async def happened() -> bool:
        for instance in site.dev.json["instances"]:
            caller = await site.caller()
            async with aiohttp.ClientSession(instance["url"]) as session:
                await replace(caller, client=session).token()
        found[:] = [entry.id for entry in await site.entries() if entry.what == kind and entry.id not in known]
        return bool(found)

    await until(happened, kind, within_s=60)
    return found[0]


async def sign_in_and_out(site: Site) -> str:
    """An operator signs in at the console, and out."""
    name = await site.operator()
    async with new_browser(site.dev.json["instances"][site.at]["url"]) as browser:
        assert await sign_in(browser, name, PASSWORD) == 303
        async with browser.post("/admin/sign-out", allow_redirects=False) as answer:
            assert answer.status == 303
    return name


async def refuse_sign_in(site: Site) -> str:
    """The password is wrong."""
    name = await site.operator()
    async with new_browser(site.dev.json["instances"][site.at]["url"]) as browser:
        assert await sign_in(browser, name, "wrong") == 401
    return name


K = EventKind
TABLE: Final = (
    # These order faults of the cloud or move the clock: before the others, with nothing else in the queue.
    Row(K.BREAKER_OPENED, "server", take_cloud_away),
    Row(K.BREAKER_CLOSED, "server", bring_cloud_back),
    Row(K.LAPSED, "server", let_revocation_lapse),
    Row(K.FAILED, "cloud", let_revocation_fail),
    Row(K.DISCARDED, "server", discard_half),
    # Tokens.
    Row(K.GRANTED, "device", grant_token),
    Row(K.REFUSED, "device", refuse_device),
    Row(K.REFUSED, "stranger", refuse_stranger),
    Row(K.REFUSED, "api", refuse_service),
    Row(K.REVOKED, "device", revoke_own),
    Row(K.REVOKED, "api", revoke_as_service),
    Row(K.REVOKED, "api", api("POST /api/revocations", '{"handle": "{token}"}')),
    Row(K.REVOKED, "cli", cli("tokens revoke {token} --yes")),
    Row(K.REVOKED, "console", console("/admin/revoke", handle="{token}")),
    Row(K.REVOKED, "job", revoke_by_job),
    Row(K.CONFIRMED, "cloud", revoke_and_confirm),
    Row(K.RETRIED, "cli", cli("tokens retry {failed_token}")),
    Row(K.RETRIED, "api", api("POST /api/revocations/{failed_token}/retry")),
    Row(K.RETRIED, "console", console("/admin/tokens/{failed_token}/retry")),
    Row(K.DROPPED, "cli", cli("tokens drop {failed_token}")),
    Row(K.DROPPED, "api", api("POST /api/revocations/{failed_token}/drop")),
    Row(K.DROPPED, "console", console("/admin/tokens/{failed_token}/drop")),
    Row(K.JOB_STARTED, "cli", cli("tokens revoke --role {name} --yes --no-wait")),
    Row(K.JOB_STARTED, "api", api("POST /api/revocations", '{"role": "{name}"}')),
    Row(K.JOB_STARTED, "console", console("/admin/revoke", role="{job}", job="{job}")),
    Row(K.JOB_DONE, "server", finish_job),
    # Devices.
    Row(K.DEVICE_ADDED, "cli", cli("devices add {new_device}")),
    Row(K.DEVICE_ADDED, "api", api("POST /api/devices", '{"client_id": "{new_device}"}')),
    Row(K.DEVICE_ADDED, "console", console("/admin/devices", client_id="{new_device}")),
    Row(K.DEVICE_CHANGED, "console", console("/{device}/edit", note="a note")),
    Row(K.DEVICE_DISABLED, "cli", cli("devices disable {device}")),
    Row(K.DEVICE_DISABLED, "api", api("POST /api/devices/{device}/disable")),
    Row(K.DEVICE_DISABLED, "console", console("/{device}/disable")),
    Row(K.DEVICE_ENABLED, "cli", cli("devices enable {device}")),
    Row(K.DEVICE_ENABLED, "api", api("POST /api/devices/{device}/enable")),
    Row(K.DEVICE_ENABLED, "console", console("/{device}/enable")),
    Row(K.DEVICE_ROTATED, "cli", cli("devices rotate {device}")),
    Row(K.DEVICE_ROTATED, "api", api("POST /api/devices/{device}/rotate", "{}")),
    Row(K.DEVICE_ROTATED, "console", console("/{device}/rotate", grace_h="1")),
    Row(K.DEVICE_REVOKED, "cli", cli("tokens revoke --client-id {device} --yes")),
    Row(K.DEVICE_REVOKED, "api", api("POST /api/revocations", '{"client_id": "{device}"}')),
    Row(K.DEVICE_REVOKED, "console", console("/admin/revoke", client_id="{device}")),
    Row(K.DEVICE_REMOVED, "cli", cli("devices remove {device}")),
    Row(K.DEVICE_REMOVED, "api", api("DELETE /api/devices/{device}")),
    Row(K.DEVICE_REMOVED, "console", console("/{device}/remove")),
    # The cloud, which only the console changes by hand.
    Row(K.CREDENTIAL_REGISTERED, "console", console("/{device}/credential/register")),
    Row(K.CREDENTIAL_REFRESHED, "console", console("/{credential}/credential/refresh")),
    Row(K.CREDENTIAL_UNREGISTERED, "console", console("/{credential}/credential/unregister")),
    Row(K.CONNECTION_CLOSED, "console", console("/{device}/close")),
    Row(K.CONNECTION_CLOSED, "server", revoke_and_confirm),
    Row(K.MESSAGE_SENT, "console", console("/{device}/message", topic="plant/x", payload="hello")),
    Row(K.GROUP_CREATED, "console", console("/admin/groups", group_id="{group}")),
    Row(K.GROUP_DELETED, "console", console("/admin/groups/{created_group}/delete")),
    Row(K.CALLED, "console", console("/admin/explorer/QuerySessionByClientId", ClientId="{device}")),
    # API keys and operators, which no API changes.
    Row(K.KEY_ADDED, "cli", cli("keys add {name} --right admin")),
    Row(K.KEY_ADDED, "console", console("/admin/keys", name="{name}", rights="revoke")),
    Row(K.KEY_REMOVED, "cli", cli("keys remove {key}")),
    Row(K.KEY_REMOVED, "console", console("/admin/keys/{key}/remove")),
    Row(K.OPERATOR_ADDED, "cli", cli("operators add {name} --role viewer --generate")),
    Row(K.OPERATOR_ADDED, "console", console("/admin/operators", name="{name}", role="viewer", password=PASSWORD)),
    Row(K.OPERATOR_CHANGED, "cli", cli("operators role {operator} --role operator")),
    Row(K.OPERATOR_CHANGED, "console", console("/admin/operators/{operator}/role", role="operator")),
    Row(K.OPERATOR_REMOVED, "cli", cli("operators remove {operator}")),
    Row(K.OPERATOR_REMOVED, "console", console("/admin/operators/{operator}/remove")),
    Row(K.SIGNED_IN, "console", sign_in_and_out),
    Row(K.SIGNED_OUT, "console", sign_in_and_out),
    Row(K.SIGN_IN_REFUSED, "stranger", refuse_sign_in),
)
FAILED_TOKENS: Final = 1 + len([row for row in TABLE if row.kind in {K.RETRIED, K.DROPPED}])
IN_A_REQUEST: Final = {"api", "console", "device", "stranger"}


@dataclass(frozen=True)
class Played:
    """What the events of the table were about, and what the streams and the log had when all was in the log."""

    subjects: list[str]
    entries: list[AuditEntry]
    lines: list[dict[str, Any]]

    def entry_of(self, number: int) -> AuditEntry:
        """Return the one entry of a row."""
        [entry] = [entry for entry in self.entries if TABLE[number].is_about(self.subjects[number], entry)]
        return entry


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """The table, done at an instance that goes on, and at one that is killed right after it."""
    state: Path = tmp_path_factory.mktemp("events") / "state"
    state.mkdir(mode=0o700)
    load_settings(state, SETTINGS)
    cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    with pytest.MonkeyPatch.context() as patch, running_dev(state, "--instances", "2") as dev:
        patch.setattr("app.service.operators.PASSWORDS", cheap)
        try:
            return asyncio.run(play(dev))
        finally:
            structlog.reset_defaults()  # the command line configures it


async def play(dev: Dev) -> dict[str, Played]:
    """Do what the table says, twice, and kill the instance that writes the log."""
    async with open_site(dev, at=0) as site:
        alive = await until_shipped(site, await do_all(site))
    [writer, *_] = [at for at in (0, 1) if lines_of(dev, at)]
    async with open_site(dev, at=writer) as site:
        subjects = await do_all(site)
        os.kill(dev.json["instances"][writer]["pid"], signal.SIGKILL)
        return {"alive": alive, "killed": await until_shipped(site, subjects)}


@contextlib.asynccontextmanager
async def open_site(dev: Dev, *, at: int) -> AsyncIterator[Site]:
    """Open an instance for all who act there."""
    settings, url = setup.settings(dev.state), dev.json["instances"][at]["url"]
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_admin_services(settings, actor=CLI))
        later = await stack.enter_async_context(open_admin_services(settings, actor=CLI))
        later.clock.shift_ms = LONGER_THAN_ANY_TOKEN_MS
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        browser = await stack.enter_async_context(new_browser(url))
        cloud = Cloud(dev.json["sandbox"], await stack.enter_async_context(aiohttp.ClientSession()))
        await cloud.limit(preset="off")
        key = await office.api_keys.add_api_key(new_name(), [Right.ADMIN], actor=CLI)
        await office.operators.add_operator(admin := new_name(), OperatorRole.ADMIN, Password(PASSWORD), actor=CLI)
        assert await sign_in(browser, admin, PASSWORD) == 303
        yield Site(dev, at, cloud, office, later, session, browser, key.text.reveal())


async def do_all(site: Site) -> list[str]:
    """Cause every event of the table, and wait until each is in its stream; return what they are about."""
    subjects = [await row.way(site) for row in TABLE]

    async def all_happened() -> bool:
        entries = await site.entries()
        return all(
            any(row.is_about(subject, entry) for entry in entries) for row, subject in zip(TABLE, subjects, strict=True)
        )

    await until(all_happened, "all events in the streams", every_s=0.05)
    return subjects


async def until_shipped(site: Site, subjects: list[str]) -> Played:
    """Wait until every entry of the streams is in the log, and return both."""

    async def is_shipped() -> bool:
        return {entry.id for entry in await site.entries()} <= {line["id"] for line in site.lines()}

    await until(is_shipped, "all entries in the log", every_s=0.05)
    lines = site.lines()
    shipped = {line["id"] for line in lines}
    return Played(subjects, [entry for entry in await site.entries() if entry.id in shipped], lines)


def test_the_table_has_every_kind() -> None:
    """Whoever adds a kind adds how it is brought about."""
    assert {row.kind for row in TABLE} == set(EventKind)


@pytest.mark.parametrize("number", range(len(TABLE)), ids=[f"{row.kind}-{row.by}" for row in TABLE])
@pytest.mark.parametrize("instance", ["alive", "killed"])
def test_an_event_is_one_entry_and_is_in_the_log(played: dict[str, Played], instance: str, number: int) -> None:
    """Once, or, where the instance was killed, at least once; with the request's ID if there was a request."""
    found = played[instance].entry_of(number)
    lines = [line for line in played[instance].lines if line["id"] == found.id]
    assert len(lines) == 1 or (instance == "killed" and lines)
    assert bool(found.request_id) is (TABLE[number].by in IN_A_REQUEST or found.what == EventKind.DISCARDED)


@pytest.mark.parametrize("instance", ["alive", "killed"])
def test_the_log_is_what_the_streams_are(played: dict[str, Played], instance: str) -> None:
    """Each entry is a line with the same fields, and nothing else is; before the kill each is there once."""
    lines = {line["id"]: line for line in played[instance].lines}
    assert lines == {entry.id: line_of(entry) for entry in played[instance].entries}
    times = Counter(line["id"] for line in played[instance].lines)
    assert instance == "killed" or set(times.values()) == {1}
    assert all(line == lines[line["id"]] for line in played[instance].lines), "repeated otherwise than it was"


def line_of(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as it must be in the log."""
    fields = {name: value for name, value in msgspec.structs.asdict(entry).items() if value not in ("", None)}
    always = dict.fromkeys(("client_id", "handle", "detail"), "")
    return {"at_ms": entry.at_ms, **always, **fields}


def lines_of(dev: Dev, at: int) -> list[dict[str, Any]]:
    """Return what an instance has logged of the audit, without what differs from line to line."""
    texts = (dev.state / "logs" / f"instance-{at}.log").read_text().splitlines()
    lines = [json.loads(text) for text in texts if '"audit"' in text]
    return [
        {
            "at_ms": round(datetime.fromisoformat(line.pop("at")).timestamp() * 1000),
            **{name: value for name, value in line.items() if name not in {"event", "level", "timestamp"}},
        }
        for line in lines
        if line["event"] == "audit"
    ]


def new_browser(url: str) -> aiohttp.ClientSession:
    """Return a browser at an instance."""
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": url}
    return aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True), headers=headers)


async def sign_in(browser: aiohttp.ClientSession, name: str, password: str) -> int:
    """Sign in, and return the status."""
    form = {"name": name, "password": password}
    async with browser.post("/admin/sign-in", data=form, allow_redirects=False) as answer:
        return answer.status


async def token_of(caller: Caller) -> str:
    """Ask for a token, and return its handle."""
    answer = await caller.token()
    assert answer.status == 200, answer
    return str(answer.body["handle"])


_numbers = itertools.count()


def new_name() -> str:
    """Return a name that no other contains."""
    return f"n{next(_numbers)}x{os.urandom(4).hex()}"
