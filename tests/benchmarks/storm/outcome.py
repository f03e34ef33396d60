"""What was measured in a row, and whether the promises were kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from app.store.quota import full_pace
from tests.benchmarks.storm.cases import HALF, Case
from tests.benchmarks.storm.cloud import Timeline
from tests.benchmarks.storm.tally import Tally

JITTER_S: Final = 0.03
"""The default of ``CLOUD_JITTER_MS``."""

MOST_RECOVERY_S: Final = 6.0
RECOVERED_SHARE: Final = 0.95
MIN_HALF_SHARE: Final = 0.85
MOST_HALF_OVERFLOW: Final = 40.0
"""A minute, where the cloud allows half of what is configured."""

MOST_PROCESSOR_SHARE: Final = 0.6
"""A process of devices that used more of a core may have been the bottleneck."""

SERVED_SHARE: Final = 0.95
"""The use of the quota is measured until so many of the served devices are: then demand fades."""


class BreakerChange(NamedTuple):
    """An instance noticed that a breaker opened or closed: its own (``instance``), or that of all (``group``)."""

    at_s: float
    is_open: bool
    scope: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row as measured. Times are of ``time.monotonic``."""

    key: str
    case: Case
    instances: int
    tally: Tally
    timeline: Timeline
    start_s: float
    fault_end_s: float
    """0 without a fault, or when the block or fault that was injected ended."""
    changes: Sequence[BreakerChange]
    calls: Mapping[str, Mapping[str, int]]
    injected: Mapping[str, Mapping[str, int]]
    limits: Mapping[str, Any]
    processor_shares: Mapping[str, float]
    """The share of a core that each process used."""
    late_ms: float
    """The longest delay of the devices behind their schedule."""

    @property
    def refusals_a_token(self) -> float:
        """How often a device was refused for each that was served."""
        return self.tally.refused / max(1, self.tally.tokens)

    @property
    def share_of_quota(self) -> float:
        """Which share of the tighter quota was used, while there was demand and the cloud served."""
        begin_s, end_s = self._busy_s
        applied = self.timeline.rate(begin_s, end_s, "answered") / self.case.quotas.real_apply_qps
        everything = self.timeline.rate(begin_s, end_s, "all_answered") / self.case.quotas.egress_qps
        return max(applied, everything)

    @property
    def _busy_s(self) -> tuple[float, float]:
        begin_s = self.start_s + 1
        if self.case.fault is not None and self.case.fault.stops_service:
            begin_s = self.fault_end_s
        if not self.case.is_saturated:
            return begin_s, self.start_s + self.case.arrive_s
        return begin_s, max(begin_s + 1, self._served_by_s)

    @property
    def _served_by_s(self) -> float:
        if self.tally.unserved or not self.tally.served_at_s:
            return self.timeline.samples[-1].at_s
        served_at_s = sorted(self.tally.served_at_s)
        return served_at_s[int(len(served_at_s) * SERVED_SHARE)]

    @property
    def peaks(self) -> dict[str, int]:
        """The most calls in any second, by action and for the address."""
        [address] = self.limits["addresses"] or [{"peak": 0}]
        return {each["action"]: each["peak"] for each in self.limits["calls"]} | {"address": address["peak"]}

    @property
    def overflow(self) -> int:
        """Calls that the cloud refused because of a limit, without those that were injected."""
        return sum(each["refused"] for each in self.limits["calls"])

    @property
    def overflow_a_minute(self) -> float:
        """The same per minute."""
        begin_s, end_s = self._busy_s
        return self.overflow / (end_s - begin_s) * 60

    @property
    def is_blocked(self) -> bool:
        """Whether the cloud blocked the address because of too many calls."""
        injected = self.case.fault is not None and self.case.fault.blocks
        return self.timeline.blocked_until_s > (self.fault_end_s + 2 if injected else 0)

    @property
    def promise_error_s(self) -> tuple[float, float]:
        """The error of ``Retry-After``: median and p90."""
        errors_s = sorted(self.tally.promise_errors_s)
        if not errors_s:
            return 0.0, 0.0
        return statistics.median(errors_s), errors_s[int(len(errors_s) * 0.9)]

    @property
    def live_p99_ms(self) -> float:
        """The 99th percentile of how long a request for a live token took."""
        taken_ms = sorted(self.tally.live_ms)
        return taken_ms[int(len(taken_ms) * 0.99)] if taken_ms else 0.0

    @property
    def closed_at_s(self) -> float:
        """When the breaker of all instances closed for the last time; 0 if it did not."""
        closed = [each.at_s for each in self.changes if not each.is_open and each.scope == "group"]
        opened = [each.at_s for each in self.changes if each.is_open and each.scope == "group"]
        return min((each for each in closed if each > max(opened, default=0.0)), default=0.0)

    @property
    def is_open_at_the_end(self) -> bool:
        """Whether the breaker of all instances opened and did not close."""
        return not self.closed_at_s and any(each.is_open and each.scope == "group" for each in self.changes)

    @property
    def recovery_s(self) -> float | None:
        """From the closing of the breaker to the end of the first second with 95 % of the pace; ``None`` for never."""
        wanted = RECOVERED_SHARE * full_pace(self.case.quotas.apply_qps, JITTER_S)
        seconds = self.timeline.seconds_after(self.closed_at_s)
        return next((end_s - self.closed_at_s for end_s, calls in seconds if calls >= wanted), None)

    def broken_promises(self) -> Iterator[str]:
        """List what is not as it must be."""
        if self.tally.live_refused:
            yield f"{self.tally.live_refused} requests for a live token were refused"
        if self.tally.wrong:
            yield f"{self.tally.wrong} wrong responses"
        if self.is_blocked:
            yield "the cloud blocked the address"
        if self.case.quotas == HALF:
            yield from self._broken_at_half()
        elif self.overflow:
            yield f"{self.overflow} calls exceeded a limit"
        if self.is_open_at_the_end:
            yield "the breaker is still open"
        if self.closed_at_s and (self.recovery_s is None or self.recovery_s > MOST_RECOVERY_S):
            yield f"{self.recovery_text} from the closing of the breaker to 95 % of the pace, not 6 s at most"

    def _broken_at_half(self) -> Iterator[str]:
        if self.share_of_quota < MIN_HALF_SHARE:
            yield f"{self.share_of_quota:.1%} of the real quota were used, not {MIN_HALF_SHARE:.0%} at least"
        if self.overflow_a_minute > MOST_HALF_OVERFLOW:
            yield f"{self.overflow_a_minute:.0f} Overflow a minute, not {MOST_HALF_OVERFLOW:.0f} at most"

    @property
    def recovery_text(self) -> str:
        """The time to 95 % of the pace in words."""
        return "never" if self.recovery_s is None else f"{self.recovery_s:.1f} s"

    def notes(self) -> Iterator[str]:
        """List what a reader must know of how it was measured."""
        if self.closed_at_s:
            yield f"{self.recovery_text} from the closing of the breaker to 95 % of the pace"
        if alone := sum(each.is_open and each.scope == "instance" for each in self.changes):
            yield f"instances that stopped their own calls: {alone}"
        if self.case.quotas == HALF:
            yield f"{self.overflow_a_minute:.0f} Overflow a minute"
        if self.tally.killed:
            yield f"{self.tally.killed} requests that the killed instance was serving are not counted"
        if self.tally.unserved:
            yield f"{self.tally.unserved} devices still waited at the end"
        if self.limits["paused_too_long"]:
            yield f"overloaded machine: the sandbox paused for {self.limits['longest_pause_ms']:.0f} ms"
        if self.processor_shares["devices"] > MOST_PROCESSOR_SHARE:
            share = self.processor_shares["devices"]
            yield f"the devices used {share:.0%} of a core: they may have been the bottleneck"

    def as_json(self) -> dict[str, Any]:
        """Return all figures."""
        tally = self.tally.as_json()
        for name in ("served_at_s", "refusals", "waits_s", "promise_errors_s", "live_ms"):
            tally[name] = _distribution(tally[name])
        tally["served_at_s"] = _distribution([each - self.start_s for each in self.tally.served_at_s])
        return {
            "row": self.key,
            "name": self.case.name,
            "instances": self.instances,
            "tally": tally,
            "share_of_quota": self.share_of_quota,
            "peaks": self.peaks,
            "overflow": self.overflow,
            "overflow_a_minute": self.overflow_a_minute,
            "is_blocked": self.is_blocked,
            "recovery_s": self.recovery_s if self.closed_at_s else None,
            "breaker_changes": [each._replace(at_s=each.at_s - self.start_s)._asdict() for each in self.changes],
            "calls": self.calls,
            "injected": self.injected,
            "processor_shares": self.processor_shares,
            "late_ms": self.late_ms,
            "longest_pause_ms": self.limits["longest_pause_ms"],
            "calls_each_second": self._calls_each_second(),
            "broken_promises": list(self.broken_promises()),
        }

    def _calls_each_second(self) -> list[int]:
        seconds = range(int(self.timeline.samples[-1].at_s - self.start_s) + 1)
        return [round(self.timeline.rate(self.start_s + each, self.start_s + each + 1, "counted")) for each in seconds]


def _distribution(values: list[float]) -> dict[str, float]:
    """Summarize a list."""
    ordered = sorted(values) or [0.0]
    points = {f"p{share}": ordered[int(len(ordered) * share / 100)] for share in (10, 50, 90, 99)}
    return {"count": len(values), "mean": statistics.fmean(ordered), **points, "max": ordered[-1]}
