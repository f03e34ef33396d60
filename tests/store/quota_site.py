"""Instances that share the cloud's quotas, in a time of their own: it passes only where a test lets it pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.model.calls import CallRank
from app.store.quota import (
    VALID_S,
    CallReport,
    CloudStatus,
    PermitGrant,
    PermitQuestion,
    QuotaSettings,
    SharedQuota,
    full_pace,
)
from app.store.redis_keys import QUOTA_SERVER
from app.store.script import Script
from app.store.store import Store

QPS = {"ApplyToken": 500.0, "QueryToken": 100.0, "RevokeToken": 5.0, "SendMessage": 1000.0}
LIMITS = QuotaSettings(QPS, egress_qps=300, egress_group="all")
PACE = full_pace(1, LIMITS.jitter_s)
"""The share of a limit that is used."""

ATTEMPT_TIMEOUT_S = 3.0
LEASE_S = ATTEMPT_TIMEOUT_S + 1


class StoppedScript(Script):
    """A script whose only time is the clock's shift, so that Redis may forget a thousand times later."""

    @property
    def text(self) -> str:
        """The script without Redis's clock."""
        return super().text.replace("redis.call('TIME')", "{0, 0}").replace(" / 1000)", ")")


def same_chance(seed: int) -> random.Random:
    """Return a source of random numbers that are the same each time."""
    return random.Random(seed)  # noqa: S311 (no secret)


class Taken(NamedTuple):
    """A permit: when it was taken, and how old it may be when it is used."""

    at_ms: int
    valid_ms: int


@dataclass
class Site:
    """Instances on one Redis, and the permits that they were given."""

    store: Store
    given: dict[str, list[Taken]] = field(default_factory=dict)
    shares: dict[SharedQuota, int] = field(default_factory=dict)

    def instance(
        self, *, egress_qps: float = 300, group: str = "all", jitter_s: float = 0.03, **qps: float
    ) -> SharedQuota:
        """Return another instance."""
        limits = QuotaSettings(QPS | qps, egress_qps, group, jitter_s, attempt_timeout_s=ATTEMPT_TIMEOUT_S)
        return SharedQuota(self.store, limits=limits)

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.store.clock.shift_ms += round(seconds * 1000)

    def now_s(self) -> float:
        """Return the time that the scripts see."""
        return self.store.clock.shift_ms / 1000

    async def ask(
        self,
        instance: SharedQuota,
        action: str,
        waiting: int = 1,
        *,
        ready: int | None = None,
        least: int = 1,
        rank: CallRank = CallRank.FIRST,
        valid_s: float = VALID_S,
    ) -> PermitGrant:
        """Ask once, and note what was given. All that wait are ready, if nothing else is said."""
        question = PermitQuestion(waiting, waiting if ready is None else ready, least, 0.01, valid_s, rank)
        grant = await instance.take_permits(action, question)
        if grant.permits:
            self.given.setdefault(action, []).extend(
                [Taken(self.store.clock.shift_ms, round(valid_s * 1000))] * grant.permits
            )
            self.shares[instance] = self.shares.get(instance, 0) + grant.permits
        return grant

    async def take(self, instance: SharedQuota, action: str, waiting: int = 1, *, least: int = 1) -> int:
        """Ask once, and return how many permits were given."""
        return (await self.ask(instance, action, waiting, least=least)).permits

    async def take_all(self, instance: SharedQuota, action: str) -> int:
        """Ask until nothing is given, and return how many permits were."""
        total = 0
        while permits := await self.take(instance, action, 1000):
            total += permits
        return total

    async def saturate(
        self,
        askers: Sequence[tuple[SharedQuota, str]],
        seconds: float,
        *,
        late_s: float = 0.005,
        valid_s: Sequence[float] = (VALID_S,),
        rank: CallRank = CallRank.FIRST,
    ) -> float:
        """Have all ask when they were answered to ask, or up to ``late_s`` later. Returns the seconds it took."""
        chance = same_chance(len(askers))
        began = self.now_s()
        due = [began] * len(askers)
        while min(due) < began + seconds:
            turn = due.index(min(due))
            self.store.clock.shift_ms = max(self.store.clock.shift_ms, round(due[turn] * 1000))
            grant = await self.ask(*askers[turn], 1000, valid_s=chance.choice(valid_s), rank=rank)
            due[turn] = self.now_s() + max(0.001, min(0.25, grant.again_in_s)) + chance.uniform(0, late_s)
        return self.now_s() - began

    async def report(
        self,
        instance: SharedQuota,
        *,
        answered: bool = False,
        failing_s: float = 0,
        throttled: dict[str, float] | None = None,
        probe: str = "",
    ) -> CloudStatus:
        """Report calls: a time of failing means that one has just failed. ``throttled`` is in seconds."""
        return await instance.report_calls(
            CallReport(
                answered=answered,
                failed=failing_s > 0,
                failing_s=failing_s,
                throttled={action: round(at * 1_000_000) for action, at in (throttled or {}).items()},
                probe=probe,  # type: ignore[arg-type]
                reason="ConnectionRefused" if failing_s else "",
            )
        )

    async def keys(self) -> set[str]:
        """Return the names of the quotas' keys but the one that names the Redis server: that has no TTL."""
        return set(await self.store.requests.command("KEYS", "{q}:*")) - {QUOTA_SERVER}

    async def ttl_s(self, key: str) -> float:
        """Return for how long a key is kept, by scripts whose clock is stopped: theirs are a thousand times as long."""
        return float(await self.store.requests.command("PTTL", key)) / 1_000_000


def most_in_a_window(given: Sequence[Taken], window_s: float) -> int:
    """Return the most permits taken within any window of so many seconds, its end excluded."""
    return _most([each.at_ms for each in given], round(window_s * 1000))


def most_at_the_cloud(given: Sequence[Taken], jitter_s: float) -> int:
    """Return the most calls that arrive within any second, when delays vary within ``jitter_s`` as badly as they can.

    For a while all are used as late as they may be and slow on their way, then all at once and fast; and so on.
    """
    first, last = given[0].at_ms, given[-1].at_ms
    chance = same_chance(len(given))
    turns = [chance.uniform(first, last) for _ in range((last - first) // 1000 + 1)]

    def arrives(each: Taken) -> int:
        is_late = sum(turn <= each.at_ms for turn in turns) % 2 == 0
        return each.at_ms + (each.valid_ms + round(jitter_s * 1000) if is_late else 0)

    return _most([arrives(each) for each in given], 1000)


def _most(instants: list[int], window: int) -> int:
    most = first = 0
    instants.sort()
    for last, at in enumerate(instants):
        while at - instants[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most
