"""The processes of a benchmark: Valkey with ``appendfsync always``, a cloud, our server, the bare server.

The measured processes run on the first core; Valkey, the cloud and the load generator on the other.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis.asyncio
import trustme

from app.assembly import open_admin_services
from app.model.actors import Actor
from app.service.registry import Registration
from app.settings import Settings
from tests import processes
from tests.actors import CLI
from tests.benchmarks import floor, weight, worker
from tests.benchmarks.meter import CORES, on_core
from tests.benchmarks.worker import Worker

MEASURED, OTHERS = CORES
POLICY: Final = processes.ROOT / "app/embedded/policy.toml"
AT_ONCE: Final = 16

Devices = list[dict[str, str]]
"""``client_id``, ``secret`` and, once issued, ``access_token`` of each device."""


@dataclass(frozen=True)
class Site:
    """The running processes. The servers are ``ours`` and ``floor``, the clients ``ours`` and ``sdk``."""

    ports: Mapping[str, int]
    pids: Mapping[str, int]
    devices: Path
    load: Worker
    clients: Mapping[str, Worker]
    clouds: Mapping[str, str]
    ca: Path
    weight: weight.Weight
    redis_version: str


@contextlib.contextmanager
def running(state: Path, *, devices: int) -> Iterator[Site]:
    """Start all processes, with this many devices, each with a live token."""
    ports = dict(zip(("ours", "floor", "cloud", "cloud_tls"), processes.free_ports(4), strict=True))
    clouds = {"HTTP": f"http://127.0.0.1:{ports['cloud']}", "TLS": f"https://localhost:{ports['cloud_tls']}"}
    certificate, ca = write_certificates(state)
    with contextlib.ExitStack() as stack:
        with on_core(OTHERS):
            redis_url = stack.enter_context(processes.running_valkey(state))
            load = stack.enter_context(worker.started("tests.benchmarks.load"))
            arguments = json.dumps([ports["cloud"], ports["cloud_tls"], str(certificate)])
            start(stack, state, ports["cloud"], "tests.benchmarks.cloud", arguments)
        env = settings(redis_url, clouds["HTTP"], ports["ours"])
        registered = asyncio.run(register(Settings.load(env), devices))
        with on_core(MEASURED):
            pids = {"ours": start(stack, state, ports["ours"], "app", "serve", env=env)}
            trusting = environment() | {"SSL_CERT_FILE": str(ca), "REDIS_URL": redis_url}
            clients = {
                "ours": stack.enter_context(worker.started("tests.benchmarks.applying", "ours", env=trusting)),
                "sdk": stack.enter_context(worker.started("tests.benchmarks.applying", "sdk", env=environment())),
            }
        answers, weighed = asyncio.run(issue(ports["ours"], registered, redis_url))
        sealing_key = secrets.token_bytes(32)
        asyncio.run(stock_floor(redis_url, sealing_key, answers))
        config = state / "floor.json"
        config.write_text(json.dumps(floor_config(env, ports["floor"], sealing_key, registered, answers[0])))
        with on_core(MEASURED):
            pids["floor"] = start(stack, state, ports["floor"], "tests.benchmarks.floor", str(config))
        with redis.Redis.from_url(redis_url) as client:
            server, durability = client.info("server"), client.config_get("appendfsync")["appendfsync"]
        pids["redis"] = int(server["process_id"])
        assert durability == "always"
        version = (
            f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
        )
        path = state / "devices.json"
        path.write_text(json.dumps({"issuer": env["ISSUER_URL"], "devices": registered}))
        yield Site(ports, pids, path, load, clients, clouds, ca, weighed, version)


def environment() -> dict[str, str]:
    """Return the environment that a process needs, without variables that would change its settings."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def settings(redis_url: str, cloud_url: str, port: int) -> dict[str, str]:
    """Return the environment of our server: the defaults, with quotas that are never reached."""
    return environment() | {
        "PORT": str(port),
        "ISSUER_URL": f"http://127.0.0.1:{port}",
        "REDIS_URL": redis_url,
        "POLICY_FILE": str(POLICY),
        "SEALING_KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "CLOUD_ENDPOINT": cloud_url,
        "CLOUD_INSTANCE_ID": "mqtt-bench",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "bench-key",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "bench-secret",
        **dict.fromkeys(("APPLY_TOKEN_QPS", "QUERY_TOKEN_QPS", "REVOKE_TOKEN_QPS", "EGRESS_QPS"), "1e6"),
    }


def write_certificates(state: Path) -> tuple[Path, Path]:
    """Write the cloud's certificate and that of its CA, which the clients trust.

    The one alone, in favour of the SDK: it reads what it trusts anew for each call, and the usual roots take it long.
    """
    authority = trustme.CA()
    certificate, ca = state / "cloud.pem", state / "ca.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(ca)
    return certificate, ca


def start(
    stack: contextlib.ExitStack, state: Path, port: int, *command: str, env: Mapping[str, str] | None = None
) -> int:
    """Start ``python -m COMMAND``, with its output in a file, and wait until it listens; returns its process ID."""
    log = state / f"{command[0]}.log"
    with log.open("wb") as output:
        process = stack.enter_context(
            processes.running(
                [sys.executable, "-m", *command],
                cwd=processes.ROOT,
                env=env or environment(),
                stdout=output,
                stderr=output,
            )
        )
    processes.wait_until(lambda: process.poll() is not None or listens(port), f"{command}")
    if process.poll() is not None:
        raise RuntimeError(f"{command} ended: {log.read_text()}")
    return process.pid


def listens(port: int) -> bool:
    """Return whether a process listens on the port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def register(settings: Settings, count: int) -> Devices:
    """Register devices, as an operator does."""
    devices = []
    async with open_admin_services(settings, actor=Actor("cli:test")) as office:
        for number in range(count):
            added = await office.registry.add_device(Registration(f"GID_plant@@@d{number}"), actor=CLI)
            assert added.secret is not None
            devices.append({"client_id": added.device.client_id, "secret": added.secret.reveal()})
    return devices


async def issue(port: int, devices: Devices, redis_url: str) -> tuple[list[dict[str, Any]], weight.Weight]:
    """Have our server issue a token to each device, and measure the growth of Redis.

    With HTTP Basic, so that no used assertion is weighed; the first device goes ahead, so that the scripts are there.
    """
    turns = asyncio.Semaphore(AT_ONCE)
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        redis.asyncio.Redis.from_url(redis_url) as client,
    ):

        async def token(device: dict[str, str]) -> dict[str, Any]:
            basic = aiohttp.encode_basic_auth(device["client_id"], device["secret"])
            form = {"grant_type": "client_credentials"}
            async with (
                turns,
                session.post("/oauth/token", data=form, headers={"Authorization": basic}) as response,
            ):
                response.raise_for_status()
                answer: dict[str, Any] = await response.json()
            device["access_token"] = answer["access_token"]
            return answer

        first = await token(devices[0])
        before = await weight.look(client)
        rest = await asyncio.gather(*map(token, devices[1:]))
        return [first, *rest], await weight.difference(client, before, len(rest))


async def stock_floor(redis_url: str, sealing_key: bytes, answers: list[dict[str, Any]]) -> None:
    """Store the tokens that our server issued for the bare server."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        for answer in answers:
            tokens = answer["mqtt"]["tokens"]
            issued_at_ms = await client.hget(f"{{s{int(answer['handle'][:2])}}}:t:{answer['handle']}", "issued_at_ms")
            token = {
                "client_id": answer["mqtt"]["client_id"],
                "handle": answer["handle"],
                "scope": answer["scope"],
                "issued_at_s": int(issued_at_ms or 0) // 1000,
                "expires_at_ms": tokens[0]["expires_at"],
                "tokens": [(each["type"], each["token"]) for each in tokens],
            }
            await floor.stock(client, sealing_key, token)


def floor_config(
    env: Mapping[str, str], port: int, sealing_key: bytes, devices: Devices, answer: dict[str, Any]
) -> dict[str, Any]:
    """Return the bare server's configuration; the broker's address is copied from a response of our server."""
    return {
        "port": port,
        "issuer": env["ISSUER_URL"],
        "redis_url": env["REDIS_URL"],
        "sealing_key": sealing_key.hex(),
        "mqtt": {name: answer["mqtt"][name] for name in ("host", "port", "tls", "username")},
        "secrets": {device["client_id"]: device["secret"] for device in devices},
        "cloud": {
            "endpoint": env["CLOUD_ENDPOINT"],
            "region": "cn-hangzhou",
            "instance_id": env["CLOUD_INSTANCE_ID"],
            "access_key_id": env["ALIBABA_CLOUD_ACCESS_KEY_ID"],
            "access_key_secret": env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
        },
    }
