"""The embedded Valkey."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import redis

from app.embedded import valkey
from tests import processes


def test_it_promises_what_the_server_needs(redis_url: str) -> None:
    """Every write is on disk before it is answered, nothing is evicted, and no TCP port is open."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        names = ("appendonly", "appendfsync", "maxmemory-policy", "port", "save")
        settings = {name: client.config_get(name)[name] for name in names}
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "save": "",
    }


def test_data_survives_kill_9(tmp_path: Path) -> None:
    """What was answered before ``kill -9`` is there after the next start, over the stale socket."""
    with processes.running_valkey(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
    assert valkey.socket_path(tmp_path).is_socket()
    with processes.running_valkey(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_long_state_directory(tmp_path: Path) -> None:
    """A state directory whose path does not fit a socket address works, with a private socket elsewhere."""
    state = tmp_path / ("long" * 30)
    socket = valkey.socket_path(state)
    assert socket == valkey.socket_path(state)
    assert len(os.fsencode(socket)) <= 107
    with processes.running_valkey(state) as url, redis.Redis.from_url(url) as client:
        assert client.ping()
    assert socket.parent.stat().st_mode & 0o777 == 0o700


def test_foreign_socket_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket directory that others can enter is refused: they could put their own Redis there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    state = tmp_path / ("long" * 30)
    valkey.socket_path(state).parent.mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="other users can write"):
        valkey.command(state)


async def test_a_socket_without_a_server_does_not_answer(tmp_path: Path) -> None:
    """A missing socket, a stale one and one that closes at once are all "no answer"."""
    path = tmp_path / "redis.sock"
    assert not await valkey.answers(path)
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    assert not await valkey.answers(path)
    server.close()
    await server.wait_closed()
    assert not await valkey.answers(path)
