"""``python -m tests.benchmarks.console [--tokens N]``: benchmarks the console's pages with many live tokens.

One instance and Valkey with ``appendfsync always``, as processes. A page by client ID, role or handle must take less
than 300 ms. A page by topic searches for 1 s and shows its progress. Filling a million tokens takes minutes and 1.5 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiohttp
import uvloop

from app.assembly import open_admin_services
from app.logs import configure_logging
from app.model.actors import Actor
from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.service.registry import Registration
from app.settings import Settings
from app.store.pipelined_connection import Command
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.store import Store
from app.store.tokens import Tokens
from tests import processes
from tests.actors import CLI
from tests.benchmarks import site
from tests.benchmarks.meter import on_core
from tests.benchmarks.revocation import opened

ROUNDS: Final = 30
SEARCHES: Final = 5
AT_ONCE: Final = 500
LIFE_S: Final = 24 * 3600
RARE: Final = 20_000
"""One token in this many has the rare role, and only it may use ``rare/#``."""

NAME, PASSWORD = "bench", "bench bench bench"
_SEARCHED: Final = re.compile(r"Searched so far: ([0-9.,]+%)")

Row = tuple[str, str, str]
"""The name of a measure, its value, and the required value."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.console", description="Measures the console.")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="live tokens")
    tokens: int = parser.parse_args().tokens
    configure_logging("error")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, running(Path(directory)) as env:
        rows = uvloop.run(measure(Settings.load(env), tokens))
    width = max(len(row[0]) for row in rows)
    for what, figure, wanted in rows:
        print(f"{what:{width}}  {figure:>28}  {wanted}")


@contextlib.contextmanager
def running(state: Path) -> Iterator[dict[str, str]]:
    """Run Valkey and one instance, each on its own core, and yield the instance's settings."""
    with contextlib.ExitStack() as stack:
        with on_core(site.OTHERS):
            redis_url = stack.enter_context(processes.running_valkey(state))
        [port] = processes.free_ports(1)
        env = site.settings(redis_url, "http://127.0.0.1:1", port)
        with on_core(site.MEASURED):
            site.start(stack, state, port, "app", "serve", env=env)
        yield env


async def measure(settings: Settings, count: int) -> list[Row]:
    """Fill Redis, sign in and open each page several times."""
    began = time.monotonic()
    handle = await stock(settings, count)
    sys.stderr.write(f"stocked {count} tokens in {time.monotonic() - began:.0f} s\n")
    async with open_admin_services(settings, actor=Actor("cli:bench")) as office:
        await office.operators.add_operator(NAME, OperatorRole.OPERATOR, Password(PASSWORD), actor=CLI)
        await office.registry.add_device(Registration(client_id(0), role="sensor"), actor=CLI)
    jar = aiohttp.CookieJar(unsafe=True)  # for an IP address
    async with aiohttp.ClientSession(settings.issuer_url, cookie_jar=jar) as session:
        form = {"name": NAME, "password": PASSWORD}
        headers = {"Origin": settings.issuer_url, "Sec-Fetch-Site": "same-origin"}
        async with session.post("/admin/sign-in", data=form, headers=headers, allow_redirects=False) as response:
            if response.status != 303:
                raise RuntimeError(f"not signed in: {await response.text()}")
        middle = f"{int(time.time() * 1000) + (LIFE_S + 3600) * 1000}."
        rows = []
        for what, address in (
            ("a page by client ID", f"/admin/tokens?client_id={client_id(count // 2)}"),
            ("a page by role, half of all", "/admin/tokens?role=even"),
            ("the same in the middle", f"/admin/tokens?role=even&cursor={middle}"),
            ("a page by role, a few tokens", "/admin/tokens?role=rare"),
            ("a page by handle", f"/admin/tokens/{handle}"),
            ("a page of all", "/admin/tokens"),
            ("the same in the middle", f"/admin/tokens?cursor={middle}"),
            ("asking before a device is revoked", f"/admin/revoke?client_id={client_id(0)}"),
        ):
            took_ms = sorted([(await look(session, address))[0] for _ in range(ROUNDS)])
            figure = f"{statistics.median(took_ms):.0f} / {took_ms[-1]:.0f} ms"
            rows.append((f"{what}, p50 / worst of {ROUNDS}", figure, "< 300 ms"))
        for what, address in (
            ("a page by topic, many match", "/admin/tokens?topic=pub:fleet/%2B/up/%23"),
            ("a page by topic, a few match", "/admin/tokens?topic=rare/%23"),
            ("a page by topic, none matches", "/admin/tokens?topic=none/%23"),
            ("asking before half of all are revoked", "/admin/revoke?role=even"),
            ("asking before a topic's are revoked", "/admin/revoke?topic=rare/%23"),
        ):
            looks = [await look(session, address) for _ in range(SEARCHES)]
            took_ms = sorted(took for took, _ in looks)
            found = _SEARCHED.search(looks[0][1])
            far = f", {found[1]} searched" if found else ""
            figure = f"{statistics.median(took_ms):.0f} / {took_ms[-1]:.0f} ms{far}"
            rows.append((f"{what}, p50 / worst of {SEARCHES}", figure, "a second, and an answer"))
    return rows


async def look(session: aiohttp.ClientSession, address: str) -> tuple[float, str]:
    """Open a page; returns the milliseconds it took and the page."""
    began = time.perf_counter()
    async with session.get(address) as response:
        text = await response.text()
    if response.status != 200:
        raise RuntimeError(f"{address}: {response.status} {text}")
    return (time.perf_counter() - began) * 1000, text


def client_id(number: int) -> str:
    """Return the client ID of a device of the fleet."""
    return f"GID_fleet@@@d{number}"


async def stock(settings: Settings, count: int) -> Handle:
    """Write live tokens to Redis in the format of the store's scripts; returns the handle of one that can be read."""
    async with opened(settings) as (store, tokens):
        handle = Handle("")
        for first in range(0, count, AT_ONCE):
            commands: list[Command] = []
            for number in range(first, min(count, first + AT_ONCE)):
                handle = put(commands, store, number, count)
            await store.requests.pipeline(commands)
        await check(store, tokens, handle, count)
    return handle


def put(commands: list[Command], store: Store, number: int, count: int) -> Handle:
    """Add the commands that write one token."""
    device = client_id(number)
    shard = Shard.of(device)
    handle = shard.new_handle()
    role = "rare" if number % RARE == RARE // 2 else ("even", "odd")[number % 2]
    topic = "rare/all" if role == "rare" else f"fleet/d{number}"
    now_ms = store.clock.now_ms()
    expires_at_ms = now_ms + LIFE_S * 1000 + number * 7200 * 1000 // count
    fields: dict[str, str | int] = {
        "client_id": device,
        "role": role,
        "scope": f"pub:{topic}/up/# sub:{topic}/down/#",
        "state": "live",
        "issued_at_ms": now_ms,
        "expires_at_ms": expires_at_ms,
        "sealed": f"{number:0600}",
        "epoch": "1",
        "begun": 0,
    }
    commands.append(("HSET", shard.token(handle), *(word for field in fields.items() for word in field)))
    commands += [
        ("ZADD", key, expires_at_ms, handle)
        for key in (shard.device_index(device), shard.index, shard.role_index(role))
    ]
    return handle


async def check(store: Store, tokens: Tokens, handle: Handle, count: int) -> None:
    """Check that the server reads the written records as live tokens."""
    record = await tokens.read_token(handle)
    there = sum(await store.requests.pipeline([("ZCARD", shard.index) for shard in ALL_SHARDS]))
    if record is None or record.state != "live" or there != count:
        raise RuntimeError(f"not as the server would have it: {record}, {there} of {count}")


if __name__ == "__main__":
    main()
