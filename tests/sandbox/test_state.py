"""What the sandbox answered survives a restart, and the ``kill -9`` of its process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from app.errors import Misconfigured
from app.model.secrets import CloudToken
from app.sandbox.server import SandboxConfig, start_sandbox
from app.sandbox.state import SandboxState
from app.sandbox.token_table import sha256_of
from tests.sandbox.caller import Caller
from tests.sandbox.device import Device

PROCESS = """
import asyncio, sys
from app.sandbox.server import SandboxConfig, start_sandbox
from tests.sandbox.caller import ACCESS_KEYS

async def main():
    config = SandboxConfig(database=sys.argv[1], instance_id="post-cn-test", access_keys=ACCESS_KEYS)
    sandbox = await start_sandbox(config)
    print(sandbox.port, sandbox.mqtt_port, file=sys.stderr, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def running(config: SandboxConfig, http: aiohttp.ClientSession) -> AsyncIterator[tuple[Caller, int]]:
    """Run a sandbox in this process; yield a caller and the MQTT port."""
    sandbox = await start_sandbox(config)
    try:
        yield Caller(http, f"http://127.0.0.1:{sandbox.port}"), sandbox.mqtt_port
    finally:
        await sandbox.stop()


async def test_restart(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """Tokens, revocations, spent nonces and retained messages are there after a restart."""
    async with running(config, http) as (cloud, mqtt_port):
        good, revoked = await cloud.token("R,W", "a/#"), await cloud.token("R,W", "a/#")
        await cloud.revoke(revoked)
        signed = cloud.signed("QueryToken", Token=good)
        assert (await cloud.send(form=signed)).code == "OK"
        listed = await cloud.control("GET", "tokens")
        device = Device(mqtt_port, "GID_plant@@@d1", f"RW|{good}")
        await device.connect()
        assert await device.publish("a/r", "retained", 1, retain=True)
        await device.close()
    async with running(config, http) as (cloud, mqtt_port):
        assert await cloud.control("GET", "tokens") == listed
        assert (await cloud.status(good), await cloud.status(revoked)) == (True, False)
        assert (await cloud.send(form=signed)).code == "SignatureNonceUsed"
        device = Device(mqtt_port, "GID_plant@@@d1", f"RW|{good}")
        await device.connect()
        await device.subscribe("a/#", 1)
        assert await device.got(b"retained") == ("a/r", b"retained", 1, True)
        await device.close()


async def test_kill(tmp_path: Path, http: aiohttp.ClientSession, config: SandboxConfig) -> None:
    """After ``kill -9`` right after the answers, everything that was answered is there."""
    command = [sys.executable, "-c", PROCESS, str(config.database)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 (the test waits for it anyway)
        try:
            assert process.stderr is not None
            port = process.stderr.readline().split()[0]
            cloud = Caller(http, f"http://127.0.0.1:{port}")
            tokens = [await cloud.token("R", "a/#") for _ in range(10)]
            for token in tokens[:5]:
                await cloud.revoke(token)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    async with running(config, http) as (cloud, _):
        assert [await cloud.status(token) for token in tokens] == [False] * 5 + [True] * 5


async def test_the_file_holds_no_token(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """The files hold the SHA-256 of a token, and no part of the token."""
    async with running(config, http) as (cloud, _):
        token = await cloud.token("R", "a/#")
        files = list(Path(config.database).parent.iterdir())
        held = b"".join(file.read_bytes() for file in files)
    assert sha256_of(CloudToken(token)).encode() in held
    assert token.encode() not in held
    assert token[:40].encode() not in held


async def test_one_sandbox_on_one_file(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """A second sandbox on the same file is refused: it would not see the revocations of the first."""
    async with running(config, http) as (cloud, _):
        with pytest.raises(Misconfigured, match=r"sandbox\.db"):
            await start_sandbox(config)
        await cloud.token("R", "a/#")


async def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    """A file that is not a database or cannot be created stops the start, with its name."""
    (tmp_path / "text").write_text("not a database, and longer than an empty one" * 9)
    for path in (tmp_path / "text", tmp_path / "missing" / "sandbox.db", tmp_path):
        with pytest.raises(Misconfigured, match=str(path)):
            await SandboxState.open(path)


async def test_old_rows_are_deleted(config: SandboxConfig, http: aiohttp.ClientSession) -> None:
    """Tokens that expired more than a day ago, and nonces that no time stamp can use again, are deleted at a start."""
    async with running(config, http) as (cloud, _):
        await cloud.token("R", "a/#")
    with sqlite3.connect(config.database) as database:
        database.execute("UPDATE tokens SET expires_at_ms = 1000")
        database.execute("UPDATE nonces SET until_ms = 1000")
    database.close()
    async with running(config, http) as (cloud, _):
        assert await cloud.control("GET", "tokens") == []
    with sqlite3.connect(config.database) as database:
        assert database.execute("SELECT count(*) FROM nonces").fetchone() == (0,)
    database.close()
