"""What the devices of a load received."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

MOST_SAMPLES: Final = 5
"""Responses that are kept as text."""


@dataclass
class Tally:
    """Counts, and for each device that was served when and after how many refusals. Times are of ``time.monotonic``."""

    sent: int = 0
    """Token requests of new devices; their responses are ``tokens``, ``refused`` (503) or wrong."""
    tokens: int = 0
    refused: int = 0
    served_at_s: list[float] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    gone: int = 0
    """New devices that did not return after their first refusal."""
    unserved: int = 0
    """New devices that still waited at the end."""
    waits_s: list[int] = field(default_factory=list)
    """Every ``Retry-After``."""
    promises: int = 0
    """Returns at a promised instant, ``kept`` of which got a token without another refusal."""
    kept: int = 0
    promise_errors_s: list[float] = field(default_factory=list)
    """For each such return, how long after it the device was served; at least, if it was not by the end."""

    live_sent: int = 0
    live_tokens: int = 0
    live_refused: int = 0
    live_ms: list[float] = field(default_factory=list)
    """How long each token request of a device with a live token took."""

    others: Counter[str] = field(default_factory=Counter)
    """Introspections and revocations: ``PATH STATUS``."""
    wrong: int = 0
    samples: list[str] = field(default_factory=list)
    """Wrong responses, and refusals of devices with a live token."""
    killed: int = 0
    """Requests that the killed instance was serving."""

    def note_wrong(self, text: str) -> None:
        """Count a response that must not be, or none."""
        self.wrong += 1
        self.add_sample(text)

    def add_sample(self, text: str) -> None:
        """Keep a response to show."""
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(text)

    def as_json(self) -> dict[str, Any]:
        """Return all of it for a worker's result."""
        return {**vars(self), "others": dict(self.others)}


def merge_tallies(results: list[dict[str, Any]]) -> Tally:
    """Add up the results of several workers."""
    total = Tally()
    for result in results:
        for name in vars(total):
            value = result[name]
            if name == "others":
                total.others.update(value)
            else:
                setattr(total, name, getattr(total, name) + value)
    return total
