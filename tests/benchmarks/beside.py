"""``python -m tests.benchmarks.beside [NAME ...]``: token requests beside what operators do.

One instance and Valkey with ``appendfsync always``, as processes, with 100,000 live tokens, devices and audit entries.
Known devices request their live tokens at a steady rate, for some seconds alone and for as long beside exports,
searches, sign-ins and so on, in turn. Printed for each are: the latency of the token requests alone and beside it, the
ratio over all pairs, what the instance and Redis used of a core, and what was done beside. Exits with 1 if the p99 is
more than twice what it is alone (the median over pairs), or if a device was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import redis
import uvloop

from app.assembly import open_admin_services
from app.logs import configure_logging
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.settings import Settings
from app.store.audit import Event, EventKind, NewEntry
from app.store.pipelined_connection import Command
from app.store.redis_keys import Shard
from tests import processes
from tests.actors import CLI
from tests.benchmarks import console, site, worker
from tests.benchmarks.meter import on_core, processor_s
from tests.benchmarks.report import machine

MAX_RATIO: Final = 2.0
AT_ONCE: Final = 4
PASSWORD: Final = "bench bench bench"
CALLERS: Final = 200
FILLED_AT_ONCE: Final = 500
SETTLE_S: Final = 3.0
"""After what was done beside: passwords that wait are still checked, though their browsers have gone."""
START_S: Final = 0.5

Result = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """The running processes."""

    port: int
    pids: dict[str, int]
    settings: Settings
    devices: Path
    load: worker.Worker
    redis_version: str


@dataclass
class People:
    """Operators who are signed in, and a program with an API key; ``done`` counts their answers by what they did."""

    port: int
    operators: list[aiohttp.ClientSession]
    program: aiohttp.ClientSession
    done: Counter[str] = field(default_factory=Counter)

    async def read(self, session: aiohttp.ClientSession, path: str) -> bytes:
        """Read a page to its end, and count it by its status."""
        async with session.get(path) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                self.done["bytes"] += len(part)
            self.done[str(response.status)] += 1
            return bytes(body)


Activity = Callable[[People], list[Awaitable[None]]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.beside", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ACTIVITIES)}; all by default")
    parser.add_argument("--pairs", type=int, default=5, help="runs alone and beside it (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--rate", type=int, default=150, help="token requests a second (default 150)")
    parser.add_argument("--entries", type=int, default=100_000, help="tokens, devices, audit entries (default 100000)")
    options = parser.parse_args()
    if unknown := set(options.names) - ACTIVITIES.keys():
        parser.error(f"unknown: {', '.join(unknown)}")
    configure_logging("error")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, running(Path(directory), options.entries) as scene:
        print(machine(scene.redis_version))
        print(f"{options.rate} token requests a second; {options.pairs} pairs of {options.seconds:g} s\n\n{HEAD}")
        rows = []
        for name in options.names or ACTIVITIES:
            rows.append(uvloop.run(measure(scene, name, options.rate, options.seconds, options.pairs)))
            print(rows[-1], flush=True)
    sys.exit(0 if all(row.holds for row in rows) else 1)


@contextlib.contextmanager
def running(state: Path, entries: int) -> Iterator[Scene]:
    """Start and fill everything."""
    port, cloud, cloud_tls = processes.free_ports(3)
    certificate, _ = site.write_certificates(state)
    with contextlib.ExitStack() as stack:
        with on_core(site.OTHERS):
            redis_url = stack.enter_context(processes.running_valkey(state))
            load = stack.enter_context(worker.started("tests.benchmarks.steady"))
            arguments = json.dumps([cloud, cloud_tls, str(certificate)])
            site.start(stack, state, cloud, "tests.benchmarks.cloud", arguments)
        env = site.settings(redis_url, f"http://127.0.0.1:{cloud}", port)
        settings = Settings.load(env)
        callers = asyncio.run(site.register(settings, CALLERS))
        uvloop.run(fill(settings, entries))
        with on_core(site.MEASURED):
            pid = site.start(stack, state, port, "app", "serve", env=env)
        stack.enter_context(on_core(site.OTHERS))
        asyncio.run(site.issue(port, callers, redis_url))
        devices = state / "devices.json"
        devices.write_text(json.dumps(callers))
        with redis.Redis.from_url(redis_url) as client:
            server = client.info("server")
        pids = {"instance": pid, "redis": int(server["process_id"])}
        yield Scene(port, pids, settings, devices, load, f"Valkey {server['valkey_version']}")


async def fill(settings: Settings, entries: int) -> None:
    """Write live tokens, devices and audit entries to Redis, and add the operators."""
    await console.stock(settings, entries)
    async with open_admin_services(settings, actor=Actor("cli:bench")) as office:
        client = office.stores.redis.background
        for first in range(0, entries, FILLED_AT_ONCE):
            numbers = range(first, min(entries, first + FILLED_AT_ONCE))
            await client.pipeline([command for number in numbers for command in device_commands(number)])
            await office.stores.audit.append([entry(number) for number in numbers])
        for number in range(AT_ONCE):
            await office.operators.add_operator(f"bench{number}", OperatorRole.OPERATOR, Password(PASSWORD), actor=CLI)


def device_commands(number: int) -> list[Command]:
    """Return the commands that write one device, which can be listed but not authenticate."""
    client_id = console.client_id(number)
    shard = Shard.of(client_id)
    record = json.dumps({"algorithm": "HS256", "role": "sensor", "note": f"hall {number % 40}"})
    return [
        ("HSET", shard.device(client_id), "epoch", "1", "record", record, "key", ""),
        ("ZADD", shard.devices, 0, client_id),
    ]


def entry(number: int) -> NewEntry:
    """Return an entry as that of a token that was issued."""
    client_id = console.client_id(number)
    shard = Shard.of(client_id)
    scope = f"pub:plant/d{number}/up/# sub:plant/d{number}/down/#"
    event = Event(Actor(f"device:{client_id}", f"{number:016x}"), EventKind.GRANTED, scope)
    return NewEntry(shard.audit, event, client_id, shard.new_handle())


@contextlib.asynccontextmanager
async def people(scene: Scene) -> AsyncIterator[People]:
    """Sign the operators in, and add an API key."""
    url = scene.settings.issuer_url
    async with contextlib.AsyncExitStack() as stack:
        operators = []
        for number in range(AT_ONCE):
            jar = aiohttp.CookieJar(unsafe=True)  # for an IP address
            session = await stack.enter_async_context(aiohttp.ClientSession(url, cookie_jar=jar))
            async with sign_in(session, f"bench{number}", PASSWORD) as response:
                if response.status != 303:
                    raise RuntimeError(f"not signed in: {await response.text()}")
            operators.append(session)
        async with open_admin_services(scene.settings, actor=Actor("cli:bench")) as office:
            with contextlib.suppress(Exception):
                await office.api_keys.remove_api_key("bench", actor=CLI)
            made = await office.api_keys.add_api_key("bench", [Right.ADMIN], actor=CLI)
        headers = {"Authorization": f"Bearer {made.text.reveal()}"}
        program = await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers))
        yield People(scene.port, operators, program)


def sign_in(session: aiohttp.ClientSession, name: str, password: str) -> Any:
    """Send the form by which an operator signs in."""
    headers = {"Origin": str(session._base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    form = {"name": name, "password": password}
    return session.post("/admin/sign-in", data=form, headers=headers, allow_redirects=False)


async def measure(scene: Scene, name: str, rate: int, seconds: float, pairs: int, *, settle_s: float = SETTLE_S) -> Row:
    """Run the token requests alone and beside an activity, in turn."""
    job = {"port": scene.port, "issuer": scene.settings.issuer_url, "devices": str(scene.devices), "rate": rate}
    job |= {"failing": None, "failing_rate": 1}

    async def run(for_s: float = seconds) -> Result:
        before, began = {process: processor_s(pid) for process, pid in scene.pids.items()}, time.perf_counter()
        result = await asyncio.to_thread(scene.load.do, **job, seconds=for_s)
        took_s = time.perf_counter() - began
        if result["wrong"]:
            raise RuntimeError(f"{len(result['wrong'])} wrong answers, such as {result['wrong'][0]}")
        used = {process: (processor_s(pid) - before[process]) / took_s for process, pid in scene.pids.items()}
        return {**result, "cores": used}

    taken: list[tuple[Result, Result]] = []
    async with people(scene) as crew:
        await run(1)
        for _ in range(pairs):
            alone = await run()
            async with doing(ACTIVITIES[name](crew)):
                beside = await run()
            taken.append((alone, beside))
            sys.stderr.write(f"{name}: p99 {alone['p99_ms']:.1f} -> {beside['p99_ms']:.1f} ms\n")
            await asyncio.sleep(settle_s)
    return Row(name, taken, crew.done)


@contextlib.asynccontextmanager
async def doing(work: list[Awaitable[None]]) -> AsyncIterator[None]:
    """Do all this during the block, from shortly before it."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.sleep(START_S)
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


def export(crew: People) -> list[Awaitable[None]]:
    """Export the audit log, one operator each."""

    async def repeat(session: aiohttp.ClientSession) -> None:
        while True:
            await crew.read(session, "/admin/audit.csv")

    return [repeat(session) for session in crew.operators]


def search(crew: People) -> list[Awaitable[None]]:
    """Search all tokens for a topic that none has, page by page."""

    async def repeat(session: aiohttp.ClientSession, topic: str) -> None:
        path = f"/admin/tokens?topic={topic}/%23"
        while True:
            page = (await crew.read(session, path)).decode()
            _, _, rest = page.partition('rel="next"')
            before = page[: page.find('rel="next"')] if rest else ""
            path = before[before.rfind('href="') + 6 :].partition('"')[0].replace("&amp;", "&") or path

    return [repeat(session, f"none{number}") for number, session in enumerate(crew.operators)]


def sign_ins(crew: People) -> list[Awaitable[None]]:
    """Sign in with right passwords, as fast as it goes."""

    async def repeat(number: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{crew.port}") as session:
            while True:
                async with sign_in(session, f"bench{number}", PASSWORD) as response:
                    crew.done[str(response.status)] += 1

    return [repeat(number % AT_ONCE) for number in range(4 * AT_ONCE)]


def list_by_api(crew: People) -> list[Awaitable[None]]:
    """Read all tokens, and all devices, in pages of 200, two programs each."""

    async def repeat(path: str) -> None:
        cursor = ""
        while True:
            page = json.loads(await crew.read(crew.program, f"{path}?limit=200{cursor}"))
            following = page.get("next_cursor")
            cursor = f"&cursor={quote(following)}" if following else ""

    return [repeat("/api/tokens"), repeat("/api/devices"), repeat("/api/tokens"), repeat("/api/devices")]


def audit_pages(crew: People) -> list[Awaitable[None]]:
    """Look at pages of the audit: all entries, and those of a name that is rare."""

    async def repeat(session: aiohttp.ClientSession) -> None:
        for path in itertools.cycle(("/admin/audit", "/admin/audit?who=operator:none")):
            await crew.read(session, path)

    return [repeat(session) for session in crew.operators]


def pages(crew: People) -> list[Awaitable[None]]:
    """Look at the overview, all tokens and a search for devices."""

    async def repeat(session: aiohttp.ClientSession) -> None:
        for path in itertools.cycle(("/admin/", "/admin/tokens", "/admin/devices?q=d99999")):
            await crew.read(session, path)

    return [repeat(session) for session in crew.operators]


def register(crew: People) -> list[Awaitable[None]]:
    """Register devices one after another, with a key made here: three programs with ES256, one with RS256."""

    async def repeat(algorithm: str) -> None:
        while True:
            body = {"client_id": f"GID_new@@@{secrets.token_hex(8)}", "role": "sensor"}
            async with crew.program.post("/api/devices", json=body | {"algorithm": algorithm}) as response:
                crew.done[str(response.status)] += 1

    return [repeat(algorithm) for algorithm in ("ES256", "ES256", "ES256", "RS256")]


ACTIVITIES: Final[dict[str, Activity]] = {
    "exports": export,
    "searches": search,
    "sign-ins": sign_ins,
    "listings": list_by_api,
    "audit": audit_pages,
    "pages": pages,
    "registrations": register,
}

HEAD: Final = (
    f"{'beside':14}{'p50 ms':>14}{'p99 ms':>15}{'p50 x':>7}{'p99 x':>7}{'of pairs':>13}"
    f"{'instance':>13}{'Redis':>13}  answers"
)


@dataclass(frozen=True)
class Row:
    """What was measured of one activity: pairs of runs, alone and beside it."""

    name: str
    pairs: list[tuple[Result, Result]]
    done: Counter[str]

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return statistics.median(self._ratios("p99_ms")) <= MAX_RATIO

    def _ratios(self, key: str) -> list[float]:
        return [beside[key] / alone[key] for alone, beside in self.pairs]

    def _medians(self, value: Callable[[Result], float]) -> tuple[float, float]:
        alone, beside = (statistics.median(value(pair[side]) for pair in self.pairs) for side in (0, 1))
        return alone, beside

    def _latency(self, key: str) -> str:
        alone, beside = self._medians(lambda result: float(result[key]))
        return f"{alone:.1f} -> {beside:.1f}"

    def _used(self, process: str) -> str:
        alone, beside = self._medians(lambda result: float(result["cores"][process]))
        return f"{alone:.0%} -> {beside:.0%}"

    def __str__(self) -> str:
        ratios = self._ratios("p99_ms")
        counted = [f"{count} x {what}" for what, count in sorted(self.done.items()) if what != "bytes"]
        size = [f"{self.done['bytes'] / 1e6:.0f} MB"] if self.done["bytes"] else []
        return (
            f"{self.name:14}{self._latency('p50_ms'):>14}{self._latency('p99_ms'):>15}"
            f"{statistics.median(self._ratios('p50_ms')):>7.2f}{statistics.median(ratios):>7.2f}"
            f"{f'{min(ratios):.1f} to {max(ratios):.1f}':>13}{self._used('instance'):>13}{self._used('redis'):>13}"
            f"  {', '.join(counted + size)}"
        )


if __name__ == "__main__":
    main()
