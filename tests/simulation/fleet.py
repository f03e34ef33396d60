"""Devices that all ask for their first token at once, are refused, and come back when the server says.

There is a task for a device only while its token is applied for. Times are loop time in seconds.
"""

from __future__ import annotations

import asyncio
import math
import random
from array import array
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

from app.cloud.errors import CloudError
from app.model.grants import parse_scope
from app.service.applications import APPLY_DEADLINE_S, _mark_s
from app.service.issue import _whole_seconds
from app.tasks import end
from tests.simulation.cloud import SimulatedCloud
from tests.simulation.instances import Instance, running_instances, seeded, trusted_redis
from tests.simulation.scenario import (
    EARLY,
    EARLY_FROM,
    INSTANCES,
    MOST_OWN_JITTER_S,
    NEVER_RETURN,
    OWN_JITTER,
    STORM_S,
    Outcome,
    Scenario,
)
from tests.virtual_time import run_virtual

GRANT: Final = parse_scope("sub:fleet/#")

TICK_S: Final = 0.01
"""Devices that come within this time come at once."""

PROGRESS_EVERY_S: Final = 10.0

Progress = Callable[[float, int], None]
"""Called with the simulated time, and how many devices still want a token."""


class _Coming(IntEnum):
    """Why a device comes."""

    FIRST = 0
    PROMISED = 1
    EARLY = 2


def simulate(scenario: Scenario, progress: Progress = lambda _now, _left: None) -> Outcome:
    """Simulate until each device has its token or has given up."""
    with seeded(scenario.seed):
        return run_virtual(_simulate(scenario, progress))


async def _simulate(scenario: Scenario, progress: Progress) -> Outcome:
    chance = random.Random(scenario.seed)  # noqa: S311 (no secret)
    cloud = SimulatedCloud(scenario.quota, scenario.outage_s, chance)
    async with running_instances(INSTANCES, trusted_redis(), scenario.quota) as instances:
        fleet = _Fleet(scenario, instances, cloud, chance)
        await fleet.run(progress)
    return fleet.outcome


class _Fleet:
    """The devices, of which those of other demand have the highest numbers."""

    def __init__(
        self, scenario: Scenario, instances: list[Instance], cloud: SimulatedCloud, chance: random.Random
    ) -> None:
        self.outcome = Outcome(scenario)
        self._scenario = scenario
        self._instances = instances
        self._cloud = cloud
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._left = scenario.devices
        self._none_left = asyncio.Event()
        self._coming: dict[int, list[int]] = {}
        """Who comes next, by the number of the tick."""
        self._why = bytearray(scenario.devices)
        """Why a device comes next."""
        self._refused_in_outage = array("H", bytes(2 * scenario.devices))
        self._refused_after = array("H", bytes(2 * scenario.devices))
        self._failed_until: dict[int, float] = {}
        """Until when a failed application keeps a device from applying."""
        self._refused: dict[Instance, list[tuple[int, float]]] = {}
        """Who is refused in this turn of the loop."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, progress: Progress) -> None:
        """Let the devices come until each has its token or has given up."""
        for device in range(self._scenario.devices):
            self._come_in(self._chance.uniform(0, STORM_S), device, _Coming.FIRST)
        if self._scenario.other_demand:
            self._add_other()
        while not self._none_left.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_EVERY_S):
                    await self._none_left.wait()
            progress(self._loop.time(), self._left)
        await end(self._tasks)
        self.outcome.began_at = self._cloud.answered_first_at
        self.outcome.most_in_a_second = self._cloud.most_in_a_second

    def _add_other(self) -> None:
        """Let another device come, once the cloud answers, and the next one after a while."""
        if math.isinf(self._cloud.answered_first_at):
            self._loop.call_later(TICK_S, self._add_other)
            return
        for state in (self._why, self._refused_in_outage, self._refused_after):
            state.append(0)
        self._come_in(0, len(self._why) - 1, _Coming.FIRST)
        pace = self._scenario.pace * self._scenario.other_demand
        self._loop.call_later(self._chance.expovariate(pace), self._add_other)

    def _come_in(self, seconds: float, device: int, why: _Coming) -> None:
        tick = int((self._loop.time() + seconds) / TICK_S) + 1
        self._why[device] = why
        if tick not in self._coming:
            self._coming[tick] = []
            self._loop.call_at(tick * TICK_S, self._come, tick)
        self._coming[tick].append(device)

    def _come(self, tick: int) -> None:
        now = self._loop.time()
        for device in self._coming.pop(tick):
            instance = self._chance.choice(self._instances)
            failed_s = self._failed_until.get(device, 0.0) - now
            if failed_s > 0 or instance.applications.refusals(GRANT).first:
                self._refuse(instance, device, least_s=failed_s)
            else:
                self._start(self._apply(instance, device))

    async def _apply(self, instance: Instance, device: int) -> None:
        try:
            await self._cloud.apply(instance, self._loop.time() + APPLY_DEADLINE_S)
        except CloudError as error:
            mark_s = _mark_s(error)
            self._failed_until[device] = self._loop.time() + mark_s
            self._refuse(instance, device, least_s=mark_s)
        else:
            self._note_served(device)

    def _refuse(self, instance: Instance, device: int, *, least_s: float) -> None:
        if instance not in self._refused:
            self._refused[instance] = []
            self._start(self._answer_refused(instance))
        self._refused[instance].append((device, least_s))

    async def _answer_refused(self, instance: Instance) -> None:
        """Have each of those that are refused in this turn come back when it is asked to."""
        refused = self._refused.pop(instance)
        promises = [instance.promises.next_s(str(device), len(GRANT.split())) for device, _least_s in refused]
        for (device, least_s), promised_s in zip(refused, await asyncio.gather(*promises), strict=True):
            self._note_refused(device)
            self._return_after(_whole_seconds(max(least_s, promised_s)), device)

    def _return_after(self, seconds: float, device: int) -> None:
        chance = self._chance
        if self._why[device] == _Coming.FIRST and chance.random() < NEVER_RETURN:
            self._leave(device)
        elif chance.random() < EARLY:
            self._come_in(seconds * chance.uniform(EARLY_FROM, 1), device, _Coming.EARLY)
        else:
            late_s = chance.uniform(0, min(OWN_JITTER * seconds, MOST_OWN_JITTER_S))
            self._come_in(seconds + late_s, device, _Coming.PROMISED)

    def _note_refused(self, device: int) -> None:
        if self._loop.time() < self._scenario.outage_s:
            self._refused_in_outage[device] += 1
            return
        self._refused_after[device] += 1
        is_known = self._loop.time() >= self._cloud.answered_first_at
        if is_known and self._why[device] == _Coming.PROMISED and self._is_counted(device):
            self.outcome.broken += 1

    def _note_served(self, device: int) -> None:
        if self._is_counted(device):
            self.outcome.served_at.append(self._loop.time())
            self.outcome.refused_in_outage += self._refused_in_outage[device]
            self.outcome.refused_after[self._refused_after[device]] += 1
            self.outcome.kept += self._why[device] == _Coming.PROMISED
        self._leave(device)

    def _leave(self, device: int) -> None:
        self._left -= self._is_counted(device)
        if not self._left:
            self._none_left.set()

    def _is_counted(self, device: int) -> bool:
        return device < self._scenario.devices

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
