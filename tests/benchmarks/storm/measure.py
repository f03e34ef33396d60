"""Measures one row: the load, the fault, and what the cloud counts meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from app.tasks import end
from tests.benchmarks.meter import processor_s
from tests.benchmarks.storm.cases import LIVE_DEVICES, Case, Scene
from tests.benchmarks.storm.cloud import CloudControl, Timeline
from tests.benchmarks.storm.outcome import BreakerChange, Outcome
from tests.benchmarks.storm.site import StormSite
from tests.benchmarks.storm.tally import Tally, merge_tallies

PREPARE_S: Final = 1.0
DEVICES_PREPARED_A_SECOND: Final = 10_000
"""How many first requests a process signs in advance."""

WAVE_S: Final = 8.0
PROGRESS_EVERY_S: Final = 10.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """What to measure where. ``first`` is the number of the first new device: each asks in one row only."""

    key: str
    case: Case
    site: StormSite
    first: int


async def measure(row: Row, progress: Progress) -> Outcome:
    """Measure a row on a running site."""
    async with aiohttp.ClientSession() as session:
        cloud = CloudControl(session, row.site.controls)
        await row.case.quotas.set_at(cloud)
        await cloud.order("DELETE", "calls")
        start_s = time.monotonic() + PREPARE_S + row.case.devices / DEVICES_PREPARED_A_SECOND
        storm = _Storm(row, cloud, start_s, progress)
        async with cloud.observed() as timeline:
            return await storm.run(timeline)


def issue_live(site: StormSite) -> None:
    """Get a token for each device that has a live one from now on. Raises ``RuntimeError`` if that fails."""
    job = _job(site, start_s=time.monotonic() + PREPARE_S, arrive_s=2.0, max_s=30.0)
    result = _do(site, 0, job | {"new": [0, LIVE_DEVICES]})
    if result["tokens"] != LIVE_DEVICES:
        raise RuntimeError(f"{result['tokens']} of {LIVE_DEVICES} devices got a token: {result['samples']}")


def _do(site: StormSite, crowd: int, job: dict[str, Any]) -> dict[str, Any]:
    """Have a process of devices do a job; return the result."""
    result = site.devices.with_name(f"result-{crowd}.json")
    site.crowds[crowd].do(**job, result=str(result))
    content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return content


def _job(site: StormSite, *, start_s: float, arrive_s: float, max_s: float) -> dict[str, Any]:
    return {
        "ports": list(site.ports),
        "issuer": site.issuer,
        "devices": str(site.devices),
        "live": [0, 0],
        "start_s": start_s,
        "arrive_s": arrive_s,
        "min_s": 0.0,
        "max_s": max_s,
        "killed_port": None,
        "seed": 12,
    }


class _Storm:
    """A row under way."""

    def __init__(self, row: Row, cloud: CloudControl, start_s: float, progress: Progress) -> None:
        self._row = row
        self._case = row.case
        self._site = row.site
        self._cloud = cloud
        self._start_s = start_s
        self._progress = progress
        fault = row.case.fault
        self._fault_end_s = start_s + fault.at_s + fault.for_s if fault else 0.0

    async def run(self, timeline: Timeline) -> Outcome:
        before_s = self._processor_s()
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(each) for each in (self._disturb(), self._report(timeline))]
            wave = tasks.create_task(self._send_wave(timeline))
            result = await asyncio.to_thread(_do, self._site, 0, self._load())
            await end(beside)
        seconds = time.monotonic() - began_s
        shares = {name: (used_s - before_s[name]) / seconds for name, used_s in self._processor_s().items()}
        shares["devices"] = result["processor_s"] / seconds
        tally = merge_tallies([result, *wave.result()])
        outcome = await self._outcome(timeline, tally, shares=shares, late_ms=result["late_ms"])
        await self._cloud.order("DELETE", "faults")
        return outcome

    def _load(self) -> dict[str, Any]:
        job = _job(self._site, start_s=self._start_s, arrive_s=self._case.arrive_s, max_s=self._case.max_s)
        kills = self._case.fault is not None and self._case.fault.kills
        return job | {
            "live": [0, LIVE_DEVICES],
            "new": [self._row.first, self._case.devices],
            "min_s": self._case.min_s,
            "killed_port": self._site.ports[0] if kills else None,
        }

    async def _disturb(self) -> None:
        fault = self._case.fault
        if fault is None:
            return
        await _sleep_until(self._start_s + fault.at_s)
        await fault.happens(Scene(self._cloud, self._site.pids), fault.for_s)

    async def _send_wave(self, timeline: Timeline) -> list[dict[str, Any]]:
        """Let other new devices arrive when the cloud has answered after a fault, so that there is demand."""
        fault = self._case.fault
        if fault is None or not fault.wave_devices:
            return []
        until_s = self._start_s + self._case.max_s - WAVE_S
        await _sleep_until(self._fault_end_s)
        answered = (await self._cloud.sample()).all_answered
        while timeline.samples[-1].all_answered <= answered:
            if time.monotonic() > until_s:
                return []
            await asyncio.sleep(0.05)
        now_s = time.monotonic()
        job = _job(self._site, start_s=now_s, arrive_s=WAVE_S, max_s=self._start_s + self._case.max_s - now_s)
        job |= {"new": [self._row.first + self._case.devices, fault.wave_devices]}
        return [await asyncio.to_thread(_do, self._site, 1, job)]

    async def _report(self, timeline: Timeline) -> None:
        """Print how far it is. Runs until canceled."""
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            sample = timeline.samples[-1]
            pace = timeline.rate(sample.at_s - 5, sample.at_s, "counted")
            seconds = sample.at_s - self._start_s
            applied = f"{sample.answered} ApplyToken calls answered, {pace:.0f} a second"
            self._progress(f"{self._case.name}: {seconds:.0f} s, {applied}")

    async def _outcome(self, timeline: Timeline, tally: Tally, *, shares: dict[str, float], late_ms: float) -> Outcome:
        timeline.samples.append(await self._cloud.sample())
        return Outcome(
            key=self._row.key,
            case=self._case,
            instances=len(self._site.ports),
            tally=tally,
            timeline=timeline,
            start_s=self._start_s,
            fault_end_s=self._fault_end_s,
            changes=list(breaker_changes(self._site.logs, self._start_s)),
            calls=await self._cloud.order("GET", "calls"),
            injected=(await self._cloud.order("GET", "faults"))["injected"],
            limits=await self._cloud.order("GET", "limits"),
            processor_shares=shares,
            late_ms=late_ms,
        )

    def _processor_s(self) -> dict[str, float]:
        """Return the processor time that each process has used; a killed one is left out."""
        used_s = {}
        instances = {f"instance {number}": pid for number, pid in enumerate(self._site.pids)}
        for name, pid in {**instances, **self._site.others}.items():
            with contextlib.suppress(OSError):
                used_s[name] = processor_s(pid)
        return used_s


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


def breaker_changes(logs: Sequence[Path], start_s: float) -> Iterator[BreakerChange]:
    """Yield from the logs of the instances when breakers opened and closed since ``start_s``."""
    wall_s = time.time() - time.monotonic()
    for log in logs:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"breaker_' not in line:
                continue
            entry = json.loads(line)
            at_s = datetime.fromisoformat(entry["timestamp"]).timestamp() - wall_s
            if at_s >= start_s:
                yield BreakerChange(at_s, entry["event"] == "breaker_opened", entry["scope"])
