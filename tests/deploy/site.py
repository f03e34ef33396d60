"""The deployment as real processes on this machine, with the files of deploy/; parts that die are restarted.

haproxy with TLS, three instances under gunicorn, Redis with deploy/redis.conf, and the sandbox behind TLS as the cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import shlex
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp

from app.assembly import open_admin_services
from app.embedded import parts, valkey
from app.embedded.supervisor import Part, Supervisor
from app.model.actors import Actor
from app.service.registry import Registration
from app.settings import Settings
from tests.actors import CLI
from tests.callers import Caller
from tests.clouds import Cloud
from tests.processes import ROOT, free_ports
from tests.waiting import until

INSTANCES: Final = ("instance 1", "instance 2", "instance 3")
DEPLOY: Final = ROOT / "deploy"


@dataclass(frozen=True)
class Site:
    """A running deployment."""

    url: str
    private: Path
    tls: ssl.SSLContext
    cloud: Cloud
    settings: Settings
    _supervisor: Supervisor
    _admin: Path
    _direct: dict[str, str]
    _session: aiohttp.ClientSession

    def pid(self, name: str) -> int:
        """Return the process ID of a part; for an instance that of gunicorn, which leads its worker's process group."""
        return self._supervisor.pids[name]

    async def balance(self) -> dict[str, dict[str, str]]:
        """Return haproxy's ``show stat`` for each instance."""
        rows = csv.DictReader((await ask_haproxy(self._admin, "show stat")).lstrip("# ").splitlines())
        names = dict(zip(("instance1", "instance2", "instance3"), INSTANCES, strict=True))
        return {names[row["svname"]]: row for row in rows if row["pxname"] == "instances" and row["svname"] in names}

    async def in_full_service(self) -> bool:
        """Return whether every instance is ready and haproxy sends requests to it."""
        if any(row["status"] != "UP" for row in (await self.balance()).values()):
            return False
        return all([await self._ready(url) for url in self._direct.values()])

    async def until_in_full_service(self) -> None:
        """Wait until that is so."""
        await until(self.in_full_service, "full service", within_s=30)

    async def register(self, client_ids: list[str], session: aiohttp.ClientSession) -> list[Caller]:
        """Register devices, and return them as callers."""
        secrets = [await self.secret_of(client_id) for client_id in client_ids]
        return [Caller(session, self.url, client_id, key) for client_id, key in zip(client_ids, secrets, strict=True)]

    async def secret_of(self, client_id: str) -> str:
        """Register a device, and return its secret."""
        async with open_admin_services(self.settings, actor=Actor("cli:test")) as office:
            secret = (await office.registry.add_device(Registration(client_id), actor=CLI)).secret
        assert secret is not None
        return secret.reveal()

    async def _ready(self, url: str) -> bool:
        try:
            async with self._session.get(f"{url}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def running_site(haproxy: str) -> AsyncIterator[Site]:
    """Run the deployment on free ports until the block ends; ``haproxy`` is the path of the program."""
    listen, cloud, sandbox, mqtt, *direct = free_ports(4 + len(INSTANCES))
    async with AsyncExitStack() as stack:
        # A short path, for Unix sockets.
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="site-")))
        private = state / "private"
        subprocess.run([DEPLOY / "prepare", private], check=True)  # noqa: ASYNC221 - nothing else runs yet
        settings = {
            "ISSUER_URL": f"https://localhost:{listen}",
            "REDIS_URL": valkey.url(state),
            "POLICY_FILE": str(ROOT / "app/embedded/policy.toml"),
            "SEALING_KEYS": (private / "sealing_keys").read_text().strip(),
            "CLOUD_ENDPOINT": f"https://localhost:{cloud}",
            "CLOUD_INSTANCE_ID": "post-cn-sandbox0000",
            "ALIBABA_CLOUD_ACCESS_KEY_ID": "LTAI-sandbox",
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET": (private / "access_key_secret").read_text().strip(),
            "MQTT_HOST": "localhost",
            "MQTT_PORT": str(mqtt),
            "MQTT_TLS": "false",
            "LOG_LEVEL": "warning",
        }
        environment = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(private / "ca.pem"), **settings}
        addresses = {
            "LISTEN": f"127.0.0.1:{listen}",
            "CLOUD_LISTEN": f"127.0.0.1:{cloud}",
            "SANDBOX": f"127.0.0.1:{sandbox}",
            "CERTIFICATE": str(private / "server.pem"),
            "INNER": f"mqtt-token-server-{listen}",
            "HAPROXY_SOCKET": str(state / "haproxy.sock"),
        } | {f"INSTANCE_{number}": f"127.0.0.1:{port}" for number, port in enumerate(direct, 1)}
        supervisor = await stack.enter_async_context(Supervisor(lambda _: None, lambda: None))
        stack.callback(_kill_instances, supervisor)
        await supervisor.start(_redis(state, environment))
        await supervisor.start(parts.sandbox_part(state, environment, port=sandbox, mqtt_port=mqtt))
        await supervisor.start(_haproxy(state, haproxy, addresses))
        instances = [_instance(state, environment, name, port) for name, port in zip(INSTANCES, direct, strict=True)]
        async with asyncio.TaskGroup() as starting:
            for part in instances:
                starting.create_task(supervisor.start(part))
        control = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)))
        site = Site(
            url=settings["ISSUER_URL"],
            private=private,
            tls=ssl.create_default_context(cafile=private / "ca.pem"),
            cloud=Cloud(f"http://127.0.0.1:{sandbox}", control),
            settings=Settings.load(settings),
            _supervisor=supervisor,
            _admin=state / "haproxy.sock",
            _direct={name: f"http://127.0.0.1:{port}" for name, port in zip(INSTANCES, direct, strict=True)},
            _session=control,
        )
        await site.until_in_full_service()
        yield site


def procfile() -> list[str]:
    """Return the command of the Procfile, run with this Python."""
    kind, _, command = (ROOT / "Procfile").read_text().strip().partition(": ")
    assert kind == "web"
    program, *arguments = shlex.split(command)
    return [sys.executable, "-m", program, *arguments]


def _kill_instances(supervisor: Supervisor) -> None:
    """Kill them at once, because draining three in turn would take 9 s."""
    for name in INSTANCES:
        if name in supervisor.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervisor.pids[name], signal.SIGKILL)


def _redis(state: Path, environment: dict[str, str]) -> Part:
    """The embedded Valkey with deploy/redis.conf, at another address."""
    part = parts.valkey_part(state, environment)
    place = {"port": "0", "unixsocket": str(valkey.socket_path(state)), "dir": str(state / "valkey")}
    options = [word for name, value in place.items() for word in (f"--{name}", value)]
    return replace(part, command=[part.command[0], str(DEPLOY / "redis.conf"), *options])


def _instance(state: Path, environment: dict[str, str], name: str, port: int) -> Part:
    part = parts.instance_part(state, environment, number=int(name[-1]), port=port)
    return replace(part, name=name, command=procfile())


def _haproxy(state: Path, program: str, addresses: dict[str, str]) -> Part:
    async def answers() -> bool:
        try:
            return bool(await ask_haproxy(Path(addresses["HAPROXY_SOCKET"]), "show info"))
        except OSError:
            return False

    files = (DEPLOY / "haproxy.cfg", DEPLOY / "haproxy-sandbox.cfg")
    return Part(
        name="haproxy",
        command=[program, "-db", *(word for file in files for word in ("-f", str(file)))],
        environment={"PATH": os.environ["PATH"], **addresses},
        log=state / "logs" / "haproxy.log",
        answers=answers,
    )


async def ask_haproxy(socket: Path, question: str) -> str:
    """Return what haproxy answers to a command on its socket."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"{question}\n".encode())
        return (await reader.read()).decode().strip()
    finally:
        writer.close()
