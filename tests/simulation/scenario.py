"""What is simulated, how the devices fared, and what is expected of the server. Times are loop time in seconds."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from app.store.quota import QuotaSettings, full_pace
from tests.simulation.cloud import ACTION

INSTANCES: Final = 3

STORM_S: Final = 2.0
"""All devices ask for their first token within this time."""

NEVER_RETURN: Final = 0.1
"""The share of devices that do not return after their first refusal."""

EARLY: Final = 0.05
EARLY_FROM: Final = 0.1
"""The share of returns that are early: after this share, or more, of the time that the device was given."""

OWN_JITTER: Final = 0.05
MOST_OWN_JITTER_S: Final = 5.0
"""A device that is not early is late by chance: by this share of the time at most, and by no more than so much."""

FIRST_SHARE: Final = 0.1
FULL_AFTER_S: Final = math.log2(1 / FIRST_SHARE)
LOST_S: Final = FULL_AFTER_S - (1 - FIRST_SHARE) / math.log(2)
"""After an outage the pace begins at a tenth and doubles each second: so much of the full pace is lost."""

DRAIN_FROM_DEVICES: Final = 10_000
"""With fewer devices the longest jitter of a device alone takes too much of the time."""


@dataclass(frozen=True)
class Scenario:
    """How many devices there are, and what the cloud allows, in calls a second.

    The cloud answers nothing in the first ``outage_s`` seconds. From its first answer on other devices come too, which
    need ``other_demand`` of the pace and are treated alike.
    """

    devices: int
    limit: float
    outage_s: float = 0.0
    other_demand: float = 0.0
    seed: int = 1

    @property
    def quota(self) -> QuotaSettings:
        """The account's limits: the one of the address is out of the way."""
        return QuotaSettings({ACTION: self.limit}, egress_qps=3 * self.limit, egress_group="default")

    @property
    def pace(self) -> float:
        """How many calls a second there are."""
        return full_pace(self.limit, self.quota.jitter_s)

    def __str__(self) -> str:
        """Name it in a few words."""
        cause = f"an outage of {self.outage_s:.0f} s" if self.outage_s else "a storm"
        other = f", {self.other_demand:.0%} other demand" if self.other_demand else ""
        return f"{self.devices:,} devices at {self.limit:.0f}/s after {cause}{other}"


@dataclass
class Outcome:
    """How the devices fared. After the outage means: since the cloud answers again, be that known or not."""

    scenario: Scenario
    began_at: float = 0.0
    """When the first call was answered: in an outage that is the probe after it."""
    served_at: array[float] = field(default_factory=lambda: array("d"))
    """When each device got its token, of those that did."""
    refused_in_outage: int = 0
    refused_after: Counter[int] = field(default_factory=Counter)
    """Of the devices that got a token, how many were refused so often after the outage."""
    kept: int = 0
    broken: int = 0
    """Devices that came when they were asked to, since ``began_at``, and were served or refused."""
    most_in_a_second: int = 0
    """The most calls that the cloud saw within a second."""

    @property
    def mean_in_outage(self) -> float:
        """Refusals a device in the outage."""
        return self.refused_in_outage / len(self.served_at)

    @property
    def mean_after(self) -> float:
        """Refusals a device after the outage."""
        return sum(times * devices for times, devices in self.refused_after.items()) / len(self.served_at)

    @property
    def most_after(self) -> int:
        """The most refusals of any device after the outage."""
        return max(self.refused_after)

    @property
    def p99_after(self) -> int:
        """No more refusals after the outage than this, for 99 of 100 devices."""
        times = sorted(self.refused_after)
        up_to = accumulate(self.refused_after[each] for each in times)
        return next(each for each, devices in zip(times, up_to, strict=True) if devices >= 0.99 * len(self.served_at))

    @property
    def kept_share(self) -> float:
        """The share of promises that were kept; of none, all."""
        return self.kept / (self.kept + self.broken) if self.kept + self.broken else 1.0

    def served_by(self, seconds: float) -> int:
        """Return how many devices had their token so long after ``began_at``."""
        return bisect_right(self.served_at, self.began_at + seconds)

    def ideal_served(self, seconds: float) -> float:
        """Return how many devices are served by then if each permit is used that other demand leaves."""
        pace = self.scenario.pace * (1 - self.scenario.other_demand)
        if not self.scenario.outage_s:
            return pace * seconds
        if seconds < FULL_AFTER_S:
            return pace * FIRST_SHARE * (2**seconds - 1) / math.log(2)
        return pace * (seconds - LOST_S)

    @property
    def ideal_s(self) -> float:
        """How long it takes if each permit is used; they are more than the first seconds bring."""
        pace = self.scenario.pace * (1 - self.scenario.other_demand)
        return len(self.served_at) / pace + (LOST_S if self.scenario.outage_s else 0)

    @property
    def drained(self) -> float:
        """How long it took until the last device had its token, in multiples of the ideal."""
        return (self.served_at[-1] - self.began_at) / self.ideal_s

    def missed(self) -> list[str]:
        """Return the targets that were missed, each with what there was instead."""
        has_other = self.scenario.other_demand > 0
        is_large = self.scenario.devices >= DRAIN_FROM_DEVICES
        targets = {
            f"{self.mean_after:.2f} refusals a device after the outage, expected at most 1.2": self.mean_after <= 1.2,
            f"{self.most_after} refusals of a device, expected at most 5": has_other or self.most_after <= 5,
            f"{self.kept_share:.1%} of promises kept": self.kept_share >= (0.8 if has_other else 0.9),
            f"drained in {self.drained:.2f} times the ideal, expected at most 1.1": not is_large or self.drained <= 1.1,
            f"{self.most_in_a_second} calls in a second": self.most_in_a_second <= self.scenario.limit,
        }
        return [f"{self.scenario}: {text}" for text, is_met in targets.items() if not is_met]
