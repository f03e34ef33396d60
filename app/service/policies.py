"""The policy in force: read at the start, read again when its file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from app.errors import Misconfigured
from app.model.policy import Policy
from app.model.policy_file import PolicyError, load_policy

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0


class Policies:
    """Holds the policy in force; a wrong file is refused and the old one stays."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ``Misconfigured`` with file, line and key."""
        self._path = path
        self._seen = _stamp(path)
        try:
            self._policy = load_policy(path)
        except PolicyError as error:
            raise Misconfigured(str(error)) from None
        self.problem = ""

    def __call__(self) -> Policy:
        """Return the policy in force now."""
        return self._policy

    async def ping(self) -> str:
        """Tell how it stands: a refused file is no reason to stop, as the old policy is in force."""
        return "the changed file was refused, the older one is in force: see the log" if self.problem else "in force"

    async def follow(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file if it changed since it was last looked at."""
        stamp = await asyncio.to_thread(_stamp, self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._policy = await asyncio.to_thread(load_policy, self._path)
        except PolicyError as error:
            self.problem = str(error)
            log.error("policy_refused", cause=self.problem)  # noqa: TRY400 (expected: no traceback)
        else:
            self.problem = ""
            log.info("policy_read", file=str(self._path), roles=len(self._policy.roles))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; editors put a new file in the old one's place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
