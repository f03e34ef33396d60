"""What devices see while parts of the deployment fail: ``python -m tests.deploy.faults`` prints the table.

Devices request tokens through haproxy continuously, each time with a new assertion, half of them over kept-alive
connections, and sometimes revoke their token. Every response is checked.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import aiohttp

from app.logs import configure_logging
from tests.callers import Answer, Caller
from tests.deploy.site import INSTANCES, Site, running_site
from tests.waiting import until

DEVICES: Final = 24
PAUSE_S: Final = 0.1
REVOKE_EVERY_S: Final = 0.4
CALM_S: Final = 1.0
"""Seconds without trouble after which full service counts as restored."""
STALE_S: Final = 2.5
"""Seconds for which a response may still arrive that an instance sent before a revocation was answered."""

RIGHT, REFUSED, WRONG = "right", "503", "wrong"


@dataclass
class Load:
    """Devices that request tokens continuously, and the responses."""

    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    """Every token that was handed out, with its device."""
    latest: dict[str, str] = field(default_factory=dict)
    """The latest token of each device."""
    revoked_at: dict[str, float] = field(default_factory=dict)
    last_trouble: float = 0.0

    async def ask(self, device: Caller) -> None:
        """Request a token and check the response."""
        sent = time.monotonic()
        await self._judged(device, device.token(), lambda answer: self._token_fault(device, answer, sent))

    async def give_back(self, device: Caller) -> None:
        """Revoke the device's token and check the response."""
        token = self.latest.get(device.client_id)
        if token is None or token in self.revoked_at:
            return
        answer = await self._judged(device, device.revoke(token), lambda _: "")
        if answer is not None and answer.status == 200:
            self.revoked_at[token] = time.monotonic()

    async def _judged(self, device: Caller, asking: Awaitable[Answer], fault: Callable[[Answer], str]) -> Answer | None:
        self.counts["sent"] += 1
        answer, complaint = None, ""
        try:
            answer = await asking
        except (aiohttp.ClientError, AssertionError, TimeoutError, ValueError) as error:
            complaint = f"no proper answer: {error!r}"
        else:
            complaint = fault(answer) if answer.status == 200 else _refusal_fault(answer)
        verdict = WRONG if answer is None or complaint else RIGHT if answer.status == 200 else REFUSED
        self.counts[verdict] += 1
        if verdict != RIGHT:
            self.last_trouble = time.monotonic()
        if complaint:
            self.complaints.append(f"{device.client_id}: {complaint}")
        return answer

    def _token_fault(self, device: Caller, answer: Answer, sent: float) -> str:
        token, name = answer.body["access_token"], device.client_id
        part = name.rpartition("@")[2]
        if answer.body["scope"] != f"pub:plant/{part}/up/# sub:plant/all sub:plant/{part}/down/#":
            return f"another scope: {answer.body['scope']}"
        if self.seen.setdefault(token, name) != name:
            return f"the token of {self.seen[token]}"
        revoked = self.revoked_at.get(token)
        if revoked is not None and (revoked < sent or revoked + STALE_S < time.monotonic()):
            return "a token that was revoked"
        self.latest[name] = token
        return ""


def _refusal_fault(answer: Answer) -> str:
    if answer.status != 503 or answer.body.get("error") != "temporarily_unavailable":
        return f"{answer.status} {answer.body}"
    missing = [name for name in ("Retry-After", "X-Request-ID", "X-Timestamp") if name not in answer.headers]
    return f"503 without {missing}" if missing else ""


@dataclass(frozen=True)
class Fault:
    """A fault, and what devices may notice of it."""

    happens: Callable[[Site], Awaitable[None]]
    back_within_s: float
    refuses: bool = True
    """Whether a request may be refused with 503."""
    lost_leads: int = 0
    """Applications that may be made twice, because the instance that made them was killed."""


@dataclass(frozen=True)
class Row:
    """The results of one fault. ``tokens`` are the new ones, each of two cloud tokens."""

    fault: str
    sent: int
    right: int
    refused: int
    wrong: int
    full_service_after_s: float
    revoked: int
    tokens: int
    applied: int
    over_quota: int
    complaints: tuple[str, ...]
    """Each wrong response, and whatever else devices must not notice."""


class Rehearsal:
    """A site under load."""

    def __init__(self, site: Site, devices: list[Caller]) -> None:
        self._site = site
        self.devices = devices
        self._load = Load()

    async def row(self, name: str) -> Row:
        """Cause a fault under load, wait for full service, and count."""
        load, fault = self._load, FAULTS[name]
        load.counts.clear()
        complained, revoked, tokens = len(load.complaints), len(load.revoked_at), len(load.seen)
        await self._site.cloud.forget_calls()
        async with asyncio.timeout(60):
            async with self._running(load):
                await asyncio.sleep(CALM_S)
                began = time.monotonic()
                await fault.happens(self._site)
                await self._site.until_in_full_service()
                back = time.monotonic()
                while (calm := time.monotonic() - max(back, load.last_trouble)) < CALM_S:  # noqa: ASYNC110 - waits for time to pass
                    await asyncio.sleep(CALM_S - calm)
            # Each device requests once more, so that every new token is counted.
            await asyncio.gather(*(load.ask(device) for device in self.devices))
            calls = await self._site.cloud.calls("ApplyToken")
        row = Row(
            fault=name,
            sent=load.counts["sent"],
            right=load.counts[RIGHT],
            refused=load.counts[REFUSED],
            wrong=load.counts[WRONG],
            full_service_after_s=max(back, load.last_trouble) - began,
            revoked=len(load.revoked_at) - revoked,
            tokens=len(load.seen) - tokens,
            applied=calls.get("OK", 0),
            over_quota=sum(calls.values()) - calls.get("OK", 0),
            complaints=tuple(load.complaints[complained:]),
        )
        return replace(row, complaints=(*row.complaints, *_noticed(row, fault)))

    @asynccontextmanager
    async def _running(self, load: Load) -> AsyncIterator[None]:
        stop = asyncio.Event()

        async def ask(device: Caller) -> None:
            while not stop.is_set():
                await load.ask(device)
                await asyncio.sleep(PAUSE_S)

        async def give_back() -> None:
            for device in itertools.cycle(self.devices):
                await asyncio.sleep(REVOKE_EVERY_S)
                if stop.is_set():
                    return
                await load.give_back(device)

        async with asyncio.TaskGroup() as tasks:
            for device in self.devices:
                tasks.create_task(ask(device))
            tasks.create_task(give_back())
            try:
                yield
            finally:
                stop.set()


def _noticed(row: Row, fault: Fault) -> Iterator[str]:
    """List what devices noticed of a fault beyond what is allowed."""
    if row.refused and not fault.refuses:
        yield f"{row.refused} requests were refused"
    if row.right < row.sent / 2:
        yield f"only {row.right} of {row.sent} requests were served"
    if row.full_service_after_s > fault.back_within_s:
        yield f"full service took {row.full_service_after_s:.1f} s, not {fault.back_within_s:g} s at most"
    if not 2 * row.tokens <= row.applied <= 2 * (row.tokens + fault.lost_leads):
        yield f"{row.applied} ApplyTokens for {row.tokens} tokens of two halves each"
    if row.over_quota:
        yield f"{row.over_quota} calls that the cloud refused"
    if not row.revoked:
        yield "nothing was revoked"


async def rolling_restart(site: Site) -> None:
    """Send SIGTERM to one instance after another, each when the previous one is ready again."""
    for name in INSTANCES:
        old = site.pid(name)
        os.kill(old, signal.SIGTERM)
        await _replaced(site, name, old)
        await site.until_in_full_service()


async def kill_redis(site: Site) -> None:
    """``kill -9`` of Redis."""
    old = site.pid("valkey")
    os.kill(old, signal.SIGKILL)
    await _replaced(site, "valkey", old)


async def pause_instance(site: Site) -> None:
    """Pause an instance for 5 s."""
    group = site.pid(INSTANCES[1])
    os.killpg(group, signal.SIGSTOP)
    try:
        await asyncio.sleep(5)
    finally:
        os.killpg(group, signal.SIGCONT)


async def kill_instance(site: Site) -> None:
    """``kill -9`` of an instance, gunicorn and worker at once, as when its machine crashes."""
    old = site.pid(INSTANCES[0])
    os.killpg(old, signal.SIGKILL)
    await _replaced(site, INSTANCES[0], old)


async def _replaced(site: Site, name: str, old: int) -> None:
    async def another() -> bool:
        return site.pid(name) != old

    await until(another, f"{name} started again", within_s=20)


FAULTS: Final = {
    "rolling restart of all three": Fault(rolling_restart, back_within_s=30, refuses=False),
    "kill -9 of Redis": Fault(kill_redis, back_within_s=5, lost_leads=2),
    "an instance paused for 5 s": Fault(pause_instance, back_within_s=12, lost_leads=2),
    "kill -9 of an instance": Fault(kill_instance, back_within_s=12, lost_leads=2),
}


@asynccontextmanager
async def rehearsing(haproxy: str, *, devices: int = DEVICES) -> AsyncIterator[tuple[Site, Rehearsal]]:
    """Run a site and its devices, half of which keep their connections alive."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(running_site(haproxy))
        callers: list[Caller] = []
        for kind, closing in (("kept", False), ("new", True)):
            connector = aiohttp.TCPConnector(ssl=site.tls, force_close=closing, limit=0)
            timeout = aiohttp.ClientTimeout(30)
            session = aiohttp.ClientSession(site.url, connector=connector, timeout=timeout)
            await stack.enter_async_context(session)
            names = [f"GID_plant@@@{kind}{number}" for number in range(devices // 2)]
            callers += await site.register(names, session)
        yield site, Rehearsal(site, callers)


def table(rows: list[Row]) -> str:
    """Return the rows as text."""
    heads = f"{'fault':30} {'sent':>5} {'right':>6} {'503':>4} {'wrong':>6} {'full service after':>19}  "
    lines = [f"{heads}{'revoked':>7} {'new tokens':>10} {'ApplyToken':>10}"]
    lines += [
        f"{row.fault:30} {row.sent:5} {row.right:6} {row.refused:4} {row.wrong:6} {row.full_service_after_s:17.1f} s  "
        f"{row.revoked:7} {row.tokens:10} {row.applied:10}"
        for row in rows
    ]
    return "\n".join(lines)


async def main() -> None:
    """Cause each fault in turn, and print the table."""
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        sys.exit("haproxy is not installed")
    configure_logging("warning")
    rows = []
    async with rehearsing(haproxy) as (_, rehearsal):
        for name in FAULTS:
            sys.stderr.write(f"{name} …\n")
            rows.append(await rehearsal.row(name))
    sys.stdout.write(f"{table(rows)}\n")
    sys.stdout.writelines(f"{row.fault}: {complaint}\n" for row in rows for complaint in row.complaints)
    if any(row.complaints for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    asyncio.run(main())
