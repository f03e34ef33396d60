"""The processes of a storm: Valkey with ``appendfsync always``, the sandbox, the instances, and the devices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from app.assembly import open_admin_services
from app.model.actors import Actor
from app.service.registry import Registration
from app.settings import Settings
from tests import processes
from tests.actors import CLI
from tests.benchmarks import site, worker
from tests.benchmarks.storm.cases import Quotas
from tests.benchmarks.worker import Worker

CONCURRENT_REGISTRATIONS: Final = 32
WORKERS: Final = 2
"""Processes of devices: one from the start on, and one for those that arrive when the cloud answers again."""


@dataclass(frozen=True)
class Registered:
    """A store with registered devices, to be copied for each site."""

    store: Path
    devices: Path
    """Client ID and secret of each, as JSON."""
    environment: Mapping[str, str]
    """The settings that all sites share."""


@dataclass(frozen=True)
class StormSite:
    """The running processes."""

    issuer: str
    ports: Sequence[int]
    pids: Sequence[int]
    logs: Sequence[Path]
    """Each instance's."""
    others: Mapping[str, int]
    """Process IDs of the sandbox and of Valkey."""
    controls: str
    """URL of the sandbox's control endpoints."""
    devices: Path
    crowds: Sequence[Worker]


def register(directory: Path, count: int) -> Registered:
    """Make a store with ``count`` devices."""
    store, devices = directory / "registered", directory / "devices.json"
    with processes.running_valkey(store) as url:
        environment = site.settings(url, "http://127.0.0.1:1", 1)
        added = asyncio.run(_add_devices(Settings.load(environment), count))
    devices.write_text(json.dumps(added), encoding="utf-8")
    return Registered(store, devices, environment)


@contextlib.contextmanager
def running(registered: Registered, instances: int, quotas: Quotas, *, server: Path) -> Iterator[StormSite]:
    """Run a site; its instances run the code in the directory ``server``."""
    api, controls, mqtt, *ports = processes.free_ports(3 + instances)
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-")))
        shutil.copytree(registered.store, state / "redis", ignore=shutil.ignore_patterns("*.sock", "*.log"))
        redis_url = stack.enter_context(processes.running_valkey(state / "redis"))
        env = _environment(registered, redis_url, f"http://127.0.0.1:{api}", ports[0]) | quotas.environment
        options = ["--port", str(api), "--control-port", str(controls), "--mqtt-port", str(mqtt)]
        sandbox = _start(stack, controls, "sandbox", *options, "--state", str(state), env=env, log=state / "cloud.log")
        logs = [state / f"instance-{port}.log" for port in ports]
        pids = [
            _start(stack, port, "serve", env=env | {"PORT": str(port)}, log=log, directory=server)
            for port, log in zip(ports, logs, strict=True)
        ]
        with redis.Redis.from_url(redis_url) as client:
            others = {"sandbox": sandbox, "redis": int(client.info("server")["process_id"])}
        prefer(*others.values())
        crowds = [stack.enter_context(worker.started("tests.benchmarks.storm.crowd")) for _ in range(WORKERS)]
        yield StormSite(
            env["ISSUER_URL"], ports, pids, logs, others, f"http://127.0.0.1:{controls}", registered.devices, crowds
        )


def prefer(*pids: int) -> None:
    """Give these processes priority, where that is allowed.

    The cloud and Redis are other machines' work: they are not to be held up by the instances and the devices.
    """
    with contextlib.suppress(PermissionError):
        for pid in pids:
            os.setpriority(os.PRIO_PROCESS, pid, -10)


def _environment(registered: Registered, redis_url: str, cloud_url: str, port: int) -> dict[str, str]:
    """Return the settings of an instance: the defaults but for names and addresses."""
    kept = {name: text for name, text in registered.environment.items() if not name.endswith("_QPS")}
    return kept | {
        "REDIS_URL": redis_url,
        "CLOUD_ENDPOINT": cloud_url,
        "ISSUER_URL": f"http://127.0.0.1:{port}",
        "LOG_LEVEL": "warning",
    }


def _start(
    stack: contextlib.ExitStack,
    port: int,
    *command: str,
    env: Mapping[str, str],
    log: Path,
    directory: Path = processes.ROOT,
) -> int:
    """Start ``python -m app COMMAND`` and wait until it listens; returns its process ID."""
    words = [sys.executable, "-m", "app", *command]
    with log.open("wb") as output:
        process = stack.enter_context(processes.running(words, cwd=directory, env=env, stdout=output, stderr=output))
    processes.wait_until(lambda: process.poll() is not None or site.listens(port), f"{command}")
    if process.poll() is not None:
        raise RuntimeError(f"{command} ended: {log.read_text()}")
    return process.pid


async def _add_devices(settings: Settings, count: int) -> list[dict[str, str]]:
    turns = asyncio.Semaphore(CONCURRENT_REGISTRATIONS)
    async with open_admin_services(settings, actor=Actor("cli:test")) as services:

        async def add(number: int) -> dict[str, str]:
            async with turns:
                added = await services.registry.add_device(Registration(f"GID_plant@@@d{number}"), actor=CLI)
            assert added.secret is not None
            return {"client_id": added.device.client_id, "secret": added.secret.reveal()}

        return await asyncio.gather(*map(add, range(count)))
