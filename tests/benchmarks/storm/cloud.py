"""The cloud of a storm: orders to the sandbox, and what it counts over time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import aiohttp

from app.tasks import end

EVERY_S: Final = 0.1
BLOCKS_EVERY: Final = 5
"""Every so many samples blocked addresses are looked up too: a block lasts 60 s."""

APPLY: Final = "ApplyToken"


class Sample(NamedTuple):
    """How many calls the sandbox had answered at an instant of ``time.monotonic``."""

    at_s: float
    answered: int
    """ApplyToken calls that took effect."""
    counted: int
    """ApplyToken calls, however they were answered."""
    all_answered: int
    """Calls of all actions that took effect."""


@dataclass
class Timeline:
    """Samples of a row, and whether the cloud blocked the address."""

    samples: list[Sample] = field(default_factory=list)
    blocked_until_s: float = 0.0
    """When the last block ends of those that were seen; 0 without one."""

    def at(self, at_s: float, name: str) -> float:
        """Return a count at an instant, between samples in proportion."""
        times = [each.at_s for each in self.samples]
        after = bisect_left(times, at_s)
        if not 0 < after < len(times):
            return float(getattr(self.samples[min(after, len(times) - 1)], name))
        first, last = self.samples[after - 1], self.samples[after]
        share = (at_s - first.at_s) / (last.at_s - first.at_s)
        return float(getattr(first, name) + share * (getattr(last, name) - getattr(first, name)))

    def rate(self, from_s: float, to_s: float, name: str) -> float:
        """Return counts a second between two instants."""
        return (self.at(to_s, name) - self.at(from_s, name)) / max(to_s - from_s, EVERY_S)

    def seconds_after(self, from_s: float) -> Iterator[tuple[float, float]]:
        """Yield each second that begins after ``from_s``: its end, and its ApplyToken calls."""
        for sample in self.samples:
            if sample.at_s - 1 >= from_s:
                yield sample.at_s, self.rate(sample.at_s - 1, sample.at_s, "counted")


class CloudControl:
    """The control endpoints of a sandbox."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def order(self, method: str, name: str, **body: object) -> Any:
        """Send an order and return the answer. Raises ``aiohttp.ClientError``."""
        async with self._session.request(method, f"{self._url}/_sandbox/{name}", json=body or None) as response:
            if response.status != 200:
                raise aiohttp.ClientError(f"{method} {name} {body}: {response.status} {await response.text()}")
            return await response.json()

    async def inject(self, fault: str, for_s: float, *, action: str = "*", delay_s: float = 0.0) -> None:
        """Let a fault happen to all calls for a while."""
        await self.order("POST", "faults", action=action, fault=fault, for_s=for_s, delay_s=delay_s)

    async def sample(self) -> Sample:
        """Read the counts."""
        calls: dict[str, dict[str, int]] = await self.order("GET", "calls")
        applied = calls.get(APPLY, {})
        return Sample(
            at_s=time.monotonic(),
            answered=applied.get("OK", 0),
            counted=sum(applied.values()),
            all_answered=sum(results.get("OK", 0) for results in calls.values()),
        )

    @contextlib.asynccontextmanager
    async def observed(self) -> AsyncIterator[Timeline]:
        """Sample the counts for as long as the block runs."""
        timeline = Timeline()
        timeline.samples.append(await self.sample())
        observing = asyncio.create_task(self._observe(timeline))
        try:
            yield timeline
            if observing.done():
                observing.result()  # raises what ended it
        finally:
            await end([observing])
        timeline.samples.append(await self.sample())

    async def _observe(self, timeline: Timeline) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            timeline.samples.append(await self.sample())
            if len(timeline.samples) % BLOCKS_EVERY == 0:
                blocked = (await self.order("GET", "limits"))["blocked"]
                ends_s = [time.monotonic() + each["for_s"] for each in blocked]
                timeline.blocked_until_s = max([timeline.blocked_until_s, *ends_s])
