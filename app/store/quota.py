"""The cloud's quotas, shared by all instances (guide chapter 8): permits from the API's and the egress group's bucket.

What a bucket is, and how both are asked in one step, is told at the top of ``take_permits.lua``.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.store.constants import PACE
from app.store.redis_keys import quota_keys, quota_use_keys
from app.store.script import Script
from app.store.store import Store

# When Redis is full too: without permits nothing is revoked. A log holds as many entries as the limit at most.
_TAKE: Final = Script("take_permits", may_oom=True)
_READ_USAGE: Final = Script("read_quota_usage")


@dataclass(frozen=True, slots=True)
class PermitGrant:
    """What ``take_permits.lua`` said: permits taken, and when to ask again for those that still wait.

    ``lines`` and ``group_lines`` are how many permits each other line waits for: for the same API, and in the same
    egress group. The paces are in permits a second.
    """

    permits: int
    again_in_s: float
    lines: tuple[int, ...]
    group_lines: tuple[int, ...]
    pace: float
    group_pace: float

    def wait_s(self, place: int) -> float:
        """Estimate, in seconds, when the permit at ``place`` (from 1) of one's own line comes.

        Lines are served side by side: each of the others is ahead with as many as stand in it, but no more than oneself
        has been given by then.
        """
        return self.again_in_s + max(
            (place - 1 + sum(min(place, each) for each in self.lines)) / self.pace,
            (place - 1 + sum(min(place, each) for each in self.group_lines)) / self.group_pace,
        )

    def backlog_s(self, line: int) -> float:
        """Return in how many seconds all that wait now are served, with ``line`` permits in one's own line."""
        return self.again_in_s + max(
            (line + sum(self.lines)) / self.pace, (line + sum(self.group_lines)) / self.group_pace
        )


class SharedQuota:
    """The buckets as one instance sees them, under a name of its own."""

    def __init__(self, store: Store, *, qps: Mapping[str, float], egress_qps: float, egress_group: str) -> None:
        """Take the account's limits, in calls a second: for each action, and for all together from one address."""
        self._redis = store.permits
        self._qps = qps
        self._egress_qps = egress_qps
        self._group = egress_group
        self._name = secrets.token_urlsafe(8)

    async def take(self, action: str, *, line: int, least: int, batch_s: float = 0.01) -> PermitGrant:
        """Take permits for a line that waits for ``line`` of them: ``least`` or more, or none.

        More, as many as the pace brings in ``batch_s`` seconds. May be sent again. Raises ``Unavailable``.
        """
        qps = self._qps[action]
        pace, group_pace = PACE * qps, PACE * self._egress_qps
        most = min(line, max(least, math.ceil(min(pace, group_pace) * batch_s)))
        permits, wait_us, lines, group_lines = await self._redis.run_script(
            _TAKE,
            quota_keys(action, self._group),
            queue=f"{action} {self._group} {self._name}",
            wanted=line,
            least=least,
            most=most,
            own_api_limit=str(qps),
            own_group_limit=str(self._egress_qps),
        )
        return PermitGrant(permits, wait_us / 1_000_000, tuple(lines), tuple(group_lines), pace, group_pace)


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """How much of one limit is in use: permits taken within the last second, and how many are waited for.

    ``action`` is empty for the egress group. ``limit`` and ``pace`` are in calls a second; the pace is what is used.
    """

    action: str
    limit: float
    taken: int
    waiting: int

    @property
    def pace(self) -> float:
        """Where calls begin to wait."""
        return PACE * self.limit


class QuotaUsageReader:
    """The buckets as people look at them; nothing is taken."""

    def __init__(self, store: Store, *, qps: Mapping[str, float], egress_qps: float, egress_group: str) -> None:
        """Take the account's limits, as ``SharedQuota``."""
        self._redis = store.permits
        self._qps = qps
        self._egress_qps = egress_qps
        self._group = egress_group

    async def read(self) -> list[QuotaUsage]:
        """Return the use of the egress group's limit, then of each action's. Raises ``Unavailable``."""
        rows = await self._redis.run_script(
            _READ_USAGE, quota_use_keys(self._qps, self._group), group=self._group, apis=list(self._qps)
        )
        limits = {"": self._egress_qps} | dict(self._qps)
        return [QuotaUsage(action, limit, *row) for (action, limit), row in zip(limits.items(), rows, strict=True)]
