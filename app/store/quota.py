"""The cloud's quotas, shared by all instances (guide chapter 8): permits from an API's and an egress group's bucket.

``take_permits.lua`` describes what a bucket is, and how both are asked in one step.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.store.constants import PACE
from app.store.redis_keys import quota_keys, quota_usage_keys
from app.store.script import Script
from app.store.store import Store

# When Redis is full too: without permits nothing is revoked. A log holds as many entries as the limit at most.
_TAKE: Final = Script("take_permits", may_oom=True)
_READ_USAGE: Final = Script("read_quota_usage")


@dataclass(frozen=True, slots=True)
class PermitGrant:
    """The answer of ``take_permits.lua``: permits taken, and when to ask again for those that are still waited for.

    ``queues`` and ``group_queues`` are how many permits each other queue waits for: for the same API, and in the same
    egress group. The paces are in permits a second.
    """

    permits: int
    again_in_s: float
    queues: tuple[int, ...]
    group_queues: tuple[int, ...]
    pace: float
    group_pace: float

    def wait_s(self, place: int) -> float:
        """Estimate in how many seconds the permit at ``place`` (from 1) of this queue comes.

        Queues are served side by side: until then, each other queue gets as many permits as it waits for, but at most
        as many as this one gets.
        """
        return self.again_in_s + max(
            (place - 1 + sum(min(place, each) for each in self.queues)) / self.pace,
            (place - 1 + sum(min(place, each) for each in self.group_queues)) / self.group_pace,
        )

    def backlog_s(self, waiting: int) -> float:
        """Estimate in how many seconds all queues are served, with ``waiting`` permits waited for in this one."""
        return self.again_in_s + max(
            (waiting + sum(self.queues)) / self.pace, (waiting + sum(self.group_queues)) / self.group_pace
        )


class SharedQuota:
    """The buckets, and one instance's queue for each API."""

    def __init__(self, store: Store, *, qps: Mapping[str, float], egress_qps: float, egress_group: str) -> None:
        """Take the account's limits, in calls a second: for each action, and for all together from one address."""
        self._redis = store.permits
        self._qps = qps
        self._egress_qps = egress_qps
        self._group = egress_group
        self._name = secrets.token_urlsafe(8)

    async def take_permits(self, action: str, *, waiting: int, least: int, batch_s: float = 0.01) -> PermitGrant:
        """Take permits for a queue that waits for ``waiting`` of them: ``least`` or more, or none.

        At most as many as the pace allows in ``batch_s`` seconds. May be sent again. Raises ``Unavailable``.
        """
        qps = self._qps[action]
        pace, group_pace = PACE * qps, PACE * self._egress_qps
        most = min(waiting, max(least, math.ceil(min(pace, group_pace) * batch_s)))
        permits, wait_us, queues, group_queues = await self._redis.run_script(
            _TAKE,
            quota_keys(action, self._group),
            queue=f"{action} {self._group} {self._name}",
            wanted=waiting,
            least=least,
            most=most,
            own_api_limit=str(qps),
            own_group_limit=str(self._egress_qps),
        )
        return PermitGrant(permits, wait_us / 1_000_000, tuple(queues), tuple(group_queues), pace, group_pace)


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """How much of one limit is in use: permits taken within the last second, and how many are waited for.

    ``action`` is empty for the egress group. ``limit`` and ``pace`` are in calls a second.
    """

    action: str
    limit: float
    taken: int
    waiting: int

    @property
    def pace(self) -> float:
        """The number of permits a second from which on calls wait."""
        return PACE * self.limit


class QuotaUsageReader:
    """How much of the buckets is in use; reading takes nothing."""

    def __init__(self, store: Store, *, qps: Mapping[str, float], egress_qps: float, egress_group: str) -> None:
        """Take the account's limits, as ``SharedQuota``."""
        self._redis = store.background
        self._qps = qps
        self._egress_qps = egress_qps
        self._group = egress_group

    async def read_usage(self) -> list[QuotaUsage]:
        """Return the use of the egress group's limit, then of each action's. Raises ``Unavailable``."""
        rows = await self._redis.run_script(
            _READ_USAGE, quota_usage_keys(self._qps, self._group), group=self._group, apis=list(self._qps)
        )
        limits = {"": self._egress_qps} | dict(self._qps)
        return [QuotaUsage(action, limit, *row) for (action, limit), row in zip(limits.items(), rows, strict=True)]
