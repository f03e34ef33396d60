"""Overload three instances with token requests: ``python -m tests.benchmarks.storm [--rate 2000] [--seconds 20]``.

Real processes: Valkey with ``appendfsync always``, the sandbox with the quotas of an instance of the previous
generation (500 ApplyTokens per second, 300 calls per second from one IP address), three instances with the same quotas,
and clients that request more than that. There are three runs: without a fault, with an instance killed, and with an
instance paused for 5 s. The table shows what the clients received and what the cloud counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis

from app.logs import configure_logging
from app.rpc.catalog import EGRESS_QPS, PREVIOUS_QPS
from app.settings import Settings
from tests import processes
from tests.benchmarks import site, worker
from tests.waiting import until

INSTANCES: Final = 3
DEVICES: Final = 600
PAUSE_S: Final = 5.0
MIN_SHARE: Final = 0.95
"""The share of the tighter limit that the cloud must at least receive."""

ACCESS_KEY_ID: Final = "storm-key"


@dataclass(frozen=True)
class Field:
    """The running processes."""

    ports: list[int]
    pids: list[int]
    sandbox: str
    devices: Path
    crowd: worker.Worker


Fault = Callable[[Field], Awaitable[None]]


def main() -> None:
    """Run the benchmark and print the table; exits with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=2000, help="requests a second (default 2000)")
    parser.add_argument("--seconds", type=int, default=20, help="for so long (default 20)")
    options = parser.parse_args()
    configure_logging("warning")
    print(f"{'':28}{HEAD}")
    rows = []
    for name, fault in FAULTS.items():
        with tempfile.TemporaryDirectory(prefix="storm-") as state, contextlib.ExitStack() as stack:
            running = start(stack, Path(state))
            rows.append(asyncio.run(measure(running, fault, options.rate, options.seconds)))
        print(f"{name:28}{rows[-1]}", flush=True)
        for each in rows[-1].crowd["wrong"][:3]:
            print(f"  wrong: {each}")
    sys.exit(0 if all(row.holds for row in rows) else 1)


HEAD: Final = (
    "  sent  tokens    503   lost  wrong  Retry-After  ApplyToken/s  of 300  most in 1 s  Overflow  in vain  blocked"
)


@dataclass(frozen=True)
class Row:
    """What the clients received, and what the cloud counted: calls per second, against its limits."""

    crowd: dict[str, Any]
    calls: dict[str, int]
    seconds: float
    limits: dict[str, Any]

    @property
    def share(self) -> float:
        """The share of the tighter limit that was used."""
        return sum(self.calls.values()) / self.seconds / EGRESS_QPS

    @property
    def holds(self) -> bool:
        """Return whether the promise is kept."""
        return (
            self.share >= MIN_SHARE
            and self.calls.keys() <= {"OK"}
            and not self.limits["blocked"]
            and not self.crowd["wrong"]
        )

    def __str__(self) -> str:
        crowd = self.crowd
        least_s, most_s = crowd["retry_after_s"]
        [address] = self.limits["addresses"]
        return (
            f"{crowd['sent']:6}{crowd['tokens']:8}{crowd['refused']:7}{crowd['lost']:7}{len(crowd['wrong']):7}"
            f"{f'{least_s}-{most_s} s':>13}{sum(self.calls.values()) / self.seconds:14.1f}{self.share:8.1%}"
            f"{address['peak']:13}{sum(self.calls.values()) - self.calls.get('OK', 0):10}"
            f"{address['refused']:9}{len(self.limits['blocked']):9}"
        )


def start(stack: contextlib.ExitStack, state: Path) -> Field:
    """Start everything and register the devices."""
    sandbox, mqtt, *ports = processes.free_ports(2 + INSTANCES)
    url = f"http://127.0.0.1:{sandbox}"
    redis_url = stack.enter_context(processes.running_valkey(state))
    limits = {"APPLY_TOKEN_QPS": str(PREVIOUS_QPS["ApplyToken"]), "EGRESS_QPS": str(EGRESS_QPS)}
    env = site.settings(redis_url, url, ports[0]) | limits
    env |= {"ALIBABA_CLOUD_ACCESS_KEY_ID": ACCESS_KEY_ID, "LOG_LEVEL": "error"}
    env |= {"DEVICE_MAX_LIVE_TOKENS": "1000000", "DEVICE_MAX_NEW_TOKENS_PER_HOUR": "1000000"}
    options = ("--port", str(sandbox), "--mqtt-port", str(mqtt), "--state", str(state / "sandbox"))
    cloud = site.start(stack, state, sandbox, "app", "sandbox", *options, env=env)
    with redis.Redis.from_url(redis_url) as client:
        prefer(cloud, int(client.info("server")["process_id"]))
    registered = asyncio.run(site.register(Settings.load(env), DEVICES))
    pids = []
    for number, port in enumerate(ports):
        logs = state / f"instance-{number}"
        logs.mkdir()
        pids.append(site.start(stack, logs, port, "app", "serve", env=env | {"PORT": str(port)}))
    devices = state / "devices.json"
    devices.write_text(json.dumps(registered), encoding="utf-8")
    crowd = stack.enter_context(worker.started("tests.benchmarks.crowd"))
    return Field(ports, pids, url, devices, crowd)


def prefer(*pids: int) -> None:
    """Give these processes priority, where that is allowed.

    The cloud and Redis are other machines' work. A cloud that is held up here by the crowd and the instances would see
    the calls of a second at once, and count them so.
    """
    with contextlib.suppress(PermissionError):
        for pid in pids:
            os.setpriority(os.PRIO_PROCESS, pid, -10)


async def measure(field: Field, fault: Fault, rate: int, seconds: int) -> Row:
    """Run the clients and count."""
    async with aiohttp.ClientSession() as session:

        async def control(method: str, name: str, **body: object) -> Any:
            async with session.request(method, f"{field.sandbox}/_sandbox/{name}", json=body or None) as response:
                response.raise_for_status()
                return await response.json()

        async def calls() -> dict[str, int]:
            counted: dict[str, int] = (await control("GET", "calls")).get("ApplyToken", {})
            return counted

        await control("POST", "limits", preset="v2")
        job = {"ports": field.ports, "devices": str(field.devices), "rate": rate, "seconds": seconds + 1}
        storm = asyncio.create_task(asyncio.to_thread(field.crowd.do, **job, first_life_s=3600))
        await until(calls, "the first call")
        await control("DELETE", "calls")
        began = time.monotonic()
        disturbing = asyncio.create_task(_at(began + seconds / 4, fault(field)))
        await asyncio.sleep(seconds)
        counted, passed_s = await calls(), time.monotonic() - began
        await disturbing
        crowd = await storm
        return Row(crowd, counted, passed_s, await control("GET", "limits"))


async def _at(instant: float, fault: Awaitable[None]) -> None:
    await asyncio.sleep(instant - time.monotonic())
    await fault


async def nothing(_: Field) -> None:
    """Run without a fault."""


async def kill(field: Field) -> None:
    """Kill an instance, and do not restart it."""
    os.kill(field.pids[0], signal.SIGKILL)


async def pause(field: Field) -> None:
    """Pause an instance."""
    os.kill(field.pids[0], signal.SIGSTOP)
    await asyncio.sleep(PAUSE_S)
    os.kill(field.pids[0], signal.SIGCONT)


FAULTS: Final[dict[str, Fault]] = {
    "all goes well": nothing,
    "kill -9 of an instance": kill,
    f"an instance paused for {PAUSE_S:.0f} s": pause,
}

if __name__ == "__main__":
    main()
