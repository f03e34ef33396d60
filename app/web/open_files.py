"""How many connections the limit of open files allows: each connection takes one."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import structlog

from app.model.calls import ATTEMPT_TIMEOUT_S
from app.settings import Settings
from app.web.connections import ConnectionLimits

log = structlog.get_logger(__name__)

OWN_FILES: Final = 64
"""Of the process itself: its log, its listening sockets, its connections to Redis, files that it reads."""
MAX_BACKLOG: Final = 1024
LEAST_BACKLOG: Final = 128
"""Connections that may wait to be accepted: a fleet that comes at once opens hundreds while the loop is busy, and Linux
resets what finds no room. All may be accepted in one turn of the loop, before any of them can be closed."""

_LARGEST_RESERVE: Final = LEAST_BACKLOG
"""So that a health check which arrives together with others is not closed for them."""
_MAX_USEFUL: Final = 1_048_576
"""Linux allows no process more (``fs.nr_open``); a hard limit may be infinite."""
_MACOS_LIMIT: Final = 10_240
"""macOS allows no process more, whatever its hard limit says."""


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Raise the limit of open files as far as possible, and return how many connections it allows.

    Where these are fewer than ``MAX_CONNECTIONS``, an entry in the log says so.
    """
    open_files = raise_open_files()
    total, reserve = share_files(open_files, settings)
    if total < settings.max_connections:
        needed = needed_files(settings)
        log.warning(
            "open_files_too_few",
            open_files=open_files,
            needed=needed,
            max_connections=settings.max_connections,
            connections=total,
            cure=f"raise the hard limit of open files to {needed} (systemd: LimitNOFILE, Docker: ulimits.nofile, "
            f"shell: ulimit -Hn), or set MAX_CONNECTIONS to {total}",
        )
    return ConnectionLimits(
        total=total,
        reserve=reserve,
        per_source=settings.max_connections_per_address,
        unlimited=settings.trusted_networks,
        idle_s=settings.keep_alive_s,
        backlog=backlog_of(open_files),
    )


def raise_open_files() -> int:
    """Raise this process's soft limit of open files to the hard one, and return the limit."""
    import resource  # noqa: PLC0415 - Windows has neither this module nor such a limit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, most = (_MAX_USEFUL if each == resource.RLIM_INFINITY else each for each in (soft, hard))
    for wanted in (most, _MACOS_LIMIT):
        if soft < wanted:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return wanted
    return soft


def needed_files(settings: Settings) -> int:
    """Return how many files must be allowed for ``MAX_CONNECTIONS``."""
    connections = settings.max_connections + reserve_of(settings.max_connections)
    return connections + _files_without_connections(settings, MAX_BACKLOG)


def share_files(open_files: int, settings: Settings) -> tuple[int, int]:
    """Return how many connections are served, and how many are the reserve; at least half of all files is for them."""
    room = max(open_files - _files_without_connections(settings, backlog_of(open_files)), open_files // 2)
    total = min(settings.max_connections, room - reserve_of(room))
    return total, reserve_of(total)


def reserve_of(connections: int) -> int:
    """Return the size of the reserve beside so many connections."""
    return min(_LARGEST_RESERVE, max(1, connections // 8))


def backlog_of(open_files: int) -> int:
    """Return how many connections may wait to be accepted where so many files may be open."""
    return MAX_BACKLOG if open_files >= 8 * MAX_BACKLOG else LEAST_BACKLOG


def _files_without_connections(settings: Settings, backlog: int) -> int:
    return OWN_FILES + backlog + math.ceil(min(settings.egress_qps * ATTEMPT_TIMEOUT_S, _MAX_USEFUL))
