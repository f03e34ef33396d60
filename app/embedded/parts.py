"""The parts of `dev`: the command of each, its log, and how to find out whether it answers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.embedded import valkey
from app.embedded.example import GROUP_ID
from app.embedded.state import fresh_log
from app.embedded.supervisor import Part

HOST: Final = "127.0.0.1"


def valkey_part(state: Path, environment: Mapping[str, str]) -> Part:
    """Return the part that runs Valkey, on its socket in ``state``."""
    path = valkey.socket_path(state)
    return Part(
        name="valkey",
        command=valkey.command(state),
        environment=environment,
        log=fresh_log(state, "valkey"),
        answers=lambda: valkey.answers(path),
    )


def sandbox_part(state: Path, environment: Mapping[str, str], *, port: int, mqtt_port: int) -> Part:
    """Return the part that runs the sandbox, with the group of the example devices; ``environment`` has its keys."""
    options = ["--host", HOST, "--port", str(port), "--mqtt-port", str(mqtt_port), "--state", str(state / "sandbox")]
    return Part(
        name="sandbox",
        command=[sys.executable, "-m", "app", "sandbox", *options],
        environment={"SANDBOX_GROUPS": GROUP_ID, **environment},
        log=fresh_log(state, "sandbox"),
        answers=lambda: _http_ok(port, "/_sandbox/clock"),
    )


def instance_part(state: Path, environment: Mapping[str, str], *, number: int, port: int) -> Part:
    """Return the part that runs one instance of the server; ``environment`` has its settings."""
    return Part(
        name=f"instance {number}",
        command=[sys.executable, "-m", "app", "serve"],
        environment={**environment, "HOST": HOST, "PORT": str(port)},
        log=fresh_log(state, f"instance-{number}"),
        answers=lambda: _http_ok(port, "/readyz"),
    )


async def is_free(port: int, *, within_s: float = 0.5) -> bool:
    """Return whether a server can listen on ``port``, now or within ``within_s`` seconds.

    A process that was just killed may still have it open.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not _can_bind(port):
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As the server itself does: connections of an earlier one that are still closing do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


async def _http_ok(port: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
