"""The cloud's quotas, shared by all instances (guide chapter 8): permits to call, back-off, and the circuit breaker.

``_quota.lua`` describes what is stored, and each script what it does.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from app.model.calls import ATTEMPT_TIMEOUT_S, CallRank
from app.store.constants import MAX_PAUSE_SPREAD, PERMIT_LONGEST_VALID_US, PERMIT_ROUNDING_US, PERMIT_VALID_US
from app.store.redis_keys import permit_keys, promise_keys, quota_usage_keys, report_keys
from app.store.script import Script
from app.store.store import Store

# When Redis is full too: without permits nothing is revoked. A log has about 1,000 entries at most (take_permits.lua).
_TAKE: Final = Script("take_permits", may_oom=True, prelude="_quota")
_REPORT: Final = Script("report_calls", may_oom=True, prelude="_quota")
_PROMISE: Final = Script("promise_retry", may_oom=True, prelude="_quota")
_READ_USAGE: Final = Script("read_quota_usage", prelude="_quota")

VALID_S: Final = PERMIT_VALID_US / 1_000_000
"""How long after it was asked for a permit may be used at least; a slow instance states more, and it counts longer."""

MAX_VALID_S: Final = PERMIT_LONGEST_VALID_US / 1_000_000
"""A permit counts for as long as it is valid, and that long no other instance can use its place in the limit."""

_SECOND_US: Final = 1_000_000
_PAUSE_SPREAD: Final = (0.8, MAX_PAUSE_SPREAD)


def full_pace(limit: float, jitter_s: float) -> float:
    """Return how many permits a second there are for a limit in calls a second, without back-off.

    A permit counts for the second that the limit is for, and for as much longer as calls may be moved together on the
    way to the cloud: by the spread of the delay, and by the age of a permit when it is used.
    """
    return limit / (1 + jitter_s + (PERMIT_VALID_US + PERMIT_ROUNDING_US) / _SECOND_US)


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """The account's limits in calls a second: for each action, and for all together from one address.

    ``jitter_s`` is the range of the delay from here to the cloud; a probe's lease lasts a little longer than
    ``attempt_timeout_s``.
    """

    qps: Mapping[str, float]
    egress_qps: float
    egress_group: str
    jitter_s: float = 0.03
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S


class PermitQuestion(NamedTuple):
    """What a queue asks for: ``least`` or a multiple of it, or none; at most ``ready``, and ``batch_s`` of the pace.

    ``waiting`` permits are waited for in all. ``ready`` of them would be used at once, and ``rank`` is that of the
    first; 0: nothing is taken, the queue is only reported. Permits may be used for ``valid_s`` from the question on.
    """

    waiting: int
    ready: int
    least: int
    batch_s: float
    valid_s: float
    rank: CallRank


@dataclass(frozen=True, slots=True)
class PermitGrant:
    """Permits taken, and when to ask again for those that are still waited for. Paces are in permits a second.

    ``queues`` and ``group_queues`` are how many permits each other queue waits for: for the same API, and in the same
    egress group. ``pace`` and ``group_pace`` are in force now; ``full_pace`` is the API's without back-off.
    """

    permits: int
    taken_at_us: int
    """Redis's time of the permits, in Unix microseconds."""
    again_in_s: float
    queues: tuple[int, ...]
    group_queues: tuple[int, ...]
    pace: float
    group_pace: float
    full_pace: float
    instances: int
    """Live instances of the egress group, at least 1."""
    closed_for_s: float
    """0, or the breaker is open and the next probe is due in so long."""
    is_probe: bool
    """Whether the permits are to try whether the cloud answers again; the breaker is open."""

    def wait_s(self, place: int) -> float:
        """Estimate in how many seconds the permit at ``place`` (from 1) of this queue comes.

        Queues are served side by side: until then, each other queue gets as many permits as it waits for, but at most
        as many as this one gets. While the breaker is open nothing is served before the next probe.
        """
        return self._begins_in_s + max(
            (place - 1 + sum(min(place, each) for each in self.queues)) / self.pace,
            (place - 1 + sum(min(place, each) for each in self.group_queues)) / self.group_pace,
        )

    def backlog_s(self, waiting: int) -> float:
        """Estimate in how many seconds all queues are served, with ``waiting`` permits waited for in this one."""
        return self._begins_in_s + max(
            (waiting + sum(self.queues)) / self.pace, (waiting + sum(self.group_queues)) / self.group_pace
        )

    @property
    def _begins_in_s(self) -> float:
        return max(self.again_in_s, self.closed_for_s)


@dataclass(frozen=True, slots=True)
class CallReport:
    """What became of an instance's calls since its last report.

    An answer is any answer of the cloud, a refusal too. A failure is one by connection: it cannot be made, is lost, or
    brings no answer in time.
    """

    answered: bool
    """Whether a call was answered since the last report."""
    failed: bool
    """Whether a call failed since the last report."""
    failing_s: float
    """How long ago the first call failed without any answer since; 0: none. When a breaker closes it begins anew."""
    throttled: Mapping[str, int]
    """For each action the ``taken_at_us`` of the last call that was refused by Throttling."""
    probe: Literal["", "answered", "failed", "unsent"]
    """What became of this instance's probe since the last report; unsent: its permits were not used."""
    reason: str
    """Code of the last failure."""


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """What the instances of an egress group together know of the cloud."""

    is_failing: bool
    """Whether calls of some instance fail."""
    scope: Literal["", "group", "instance"]
    """Whose breaker is open."""
    closed_for_s: float
    """Seconds until the next probe; 0 if no breaker is open."""
    reason: str
    """Why the breaker opened that is open, or was closed last."""
    opened_at_ms: int
    change: Literal["", "opened", "closed"]
    """What the report of this instance changed, so that one instance records it."""


class RetryPromise(NamedTuple):
    """When to come back: the first of those that are refused in ``start_in_s`` seconds, each next ``step_s`` later."""

    start_in_s: float
    step_s: float


class SharedQuota:
    """The permits, and one instance's queue for each API."""

    def __init__(self, store: Store, *, limits: QuotaSettings) -> None:
        """Keep to ``limits``, together with all instances on ``store``."""
        self.name: Final = secrets.token_urlsafe(8)
        """This instance's name among those of its egress group."""
        self._redis = store.permits
        self._limits = limits
        self._recorded = ("", "0")
        """The last change of a breaker that was answered as this instance's."""

    async def take_permits(self, action: str, question: PermitQuestion) -> PermitGrant:
        """Take permits for a queue, or say when to ask again. May be sent again. Raises ``Unavailable``."""
        answer = await self._redis.run_script(
            _TAKE,
            permit_keys(action, self._limits.egress_group, self.name),
            queue=self._queue(action),
            waiting=question.waiting,
            ready=question.ready,
            least=question.least,
            rank=int(question.rank),
            batch_us=_us(question.batch_s),
            valid_us=_us(question.valid_s),
            lease_us=_us(self._limits.attempt_timeout_s + 1),
            **self._own_limits(action),
        )
        permits, taken_at_us, wait_us, queues, group_queues, paces, instances, closed_us, is_probe = answer
        pace, group_pace, unshrunk_pace = map(float, paces)
        return PermitGrant(
            permits=permits,
            taken_at_us=taken_at_us,
            again_in_s=wait_us / _SECOND_US,
            queues=tuple(queues),
            group_queues=tuple(group_queues),
            pace=pace,
            group_pace=group_pace,
            full_pace=unshrunk_pace,
            instances=instances,
            closed_for_s=closed_us / _SECOND_US,
            is_probe=bool(is_probe),
        )

    async def report_calls(self, report: CallReport) -> CloudStatus:
        """Report what became of calls, and learn how the group fares. May be sent again. Raises ``Unavailable``."""
        answer = await self._redis.run_script(
            _REPORT,
            report_keys(self._limits.egress_group, self.name),
            instance=self.name,
            answered=int(report.answered),
            failed=int(report.failed),
            failing_us=_us(report.failing_s),
            probe=report.probe,
            reason=report.reason,
            spread=str(random.uniform(*_PAUSE_SPREAD)),  # noqa: S311 (no secret, only spread)
            throttled=[part for action, taken_at_us in report.throttled.items() for part in (action, taken_at_us)],
        )
        is_failing, scope, closed_us, reason, opened_at_ms, change, changed_at = answer
        # A lost answer does not lose the change: it is answered again until this instance has recorded it.
        is_new = bool(change) and (change, changed_at) != self._recorded
        self._recorded = (change, changed_at)
        return CloudStatus(
            is_failing=bool(is_failing),
            scope=scope,
            closed_for_s=closed_us / _SECOND_US,
            reason=reason,
            opened_at_ms=opened_at_ms,
            change=change if is_new else "",
        )

    async def promise_retry(self, action: str, permits: int) -> RetryPromise:
        """Promise ``permits`` callers when to come back, each at an instant of its own.

        Sent again it promises later instants, and the first ones are not used. Raises ``Unavailable``.
        """
        start_us, step_us = await self._redis.run_script(
            _PROMISE,
            promise_keys(action, self._limits.egress_group, self.name),
            queue=self._queue(action),
            permits=permits,
            **self._own_limits(action),
        )
        return RetryPromise(start_us / _SECOND_US, float(step_us) / _SECOND_US)

    def _queue(self, action: str) -> str:
        return f"{action} {self._limits.egress_group} {self.name}"

    def _own_limits(self, action: str) -> dict[str, Any]:
        return {
            "own_api_limit": str(self._limits.qps[action]),
            "own_group_limit": str(self._limits.egress_qps),
            "own_jitter_us": _us(self._limits.jitter_s),
        }


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """How much of one limit is in use: permits taken a second, and how many are waited for.

    ``action`` is empty for the egress group. ``limit`` and the paces are in calls a second; calls wait from ``pace``
    on, which is ``full_pace`` but for back-off and after the breaker closed.
    """

    action: str
    limit: float
    full_pace: float
    pace: float
    taken: int
    waiting: int


class QuotaUsageReader:
    """How much of the limits is in use; reading takes nothing."""

    def __init__(self, store: Store, *, limits: QuotaSettings) -> None:
        """Take the account's limits, as ``SharedQuota``."""
        self._redis = store.polling
        self._limits = limits

    async def read_usage(self) -> list[QuotaUsage]:
        """Return the use of the egress group's limit, then of each action's. Raises ``Unavailable``."""
        group = self._limits.egress_group
        rows = await self._redis.run_script(
            _READ_USAGE, quota_usage_keys(self._limits.qps, group), group=group, apis=list(self._limits.qps)
        )
        limits = {"": self._limits.egress_qps} | dict(self._limits.qps)
        return [self._usage(action, limit, *row) for (action, limit), row in zip(limits.items(), rows, strict=True)]

    def _usage(self, action: str, limit: float, counted: int, waiting: int, share: str) -> QuotaUsage:
        pace = full_pace(limit, self._limits.jitter_s)
        # What counts now was taken in a little more than a second.
        return QuotaUsage(action, limit, pace, pace * float(share), math.ceil(counted * pace / limit), waiting)


def _us(seconds: float) -> int:
    return round(seconds * _SECOND_US)
