"""The policy in force: read at the start, and again when its file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from app.errors import Misconfigured
from app.model.health import HealthCheck, HealthStatus
from app.model.policy import Policy
from app.model.policy_file import PolicyError, load_policy
from app.model.text import _

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0

_IN_FORCE: Final = HealthCheck(HealthStatus.READY, _("in force, as in the policy file"))
_REFUSED: Final = HealthCheck(
    HealthStatus.DEGRADED,
    _("the changed policy file was refused: the policy before it is in force"),
    _("correct the file: policy_refused in the log names the line"),
)


class Policies:
    """Keeps the policy in force; a file that cannot be used is refused, and the policy stays."""

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

    async def ping(self) -> HealthCheck:
        """Return whether the newest file is in force. A refused file is not an outage: the policy before it stays."""
        return _REFUSED if self.problem else _IN_FORCE

    async def follow(self) -> None:
        """Read the file whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.read_if_changed()

    async def read_if_changed(self) -> None:
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
    """Return what differs after a change, also when an editor replaces the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
