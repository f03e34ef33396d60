"""The rows of the storm: who asks, what goes wrong, and which quotas hold."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS, EGRESS_QPS, PREVIOUS_QPS
from tests.benchmarks.storm.cloud import APPLY, CloudControl

LIVE_DEVICES: Final = 60
CALLS_A_TOKEN: Final = 2
"""A device of the example policy gets a token of two cloud tokens: to publish, and to subscribe."""

PAUSE_S: Final = 5.0
NETWORK_JITTER_S: Final = 0.03
FAULT_AT_S: Final = 6.0
"""When a fault begins, after the load has: by then as many calls are under way as there can be."""


@dataclass(frozen=True)
class Scene:
    """What a fault happens to."""

    cloud: CloudControl
    pids: Sequence[int]
    """The instances."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong ``at_s`` seconds after the load has begun, ``for_s`` seconds long."""

    happens: Callable[[Scene, float], Awaitable[None]]
    """It returns at once, or after ``for_s``."""
    at_s: float = FAULT_AT_S
    for_s: float = 0.0
    stops_service: bool = False
    """Whether no token can be had meanwhile."""
    wave_devices: int = 0
    """So many other new devices arrive when the cloud has answered again, so that there is demand."""
    blocks: bool = False
    """Whether the cloud blocks the address."""
    kills: bool = False
    """Whether it kills an instance."""


@dataclass(frozen=True)
class Quotas:
    """Calls a second that the servers are configured for, and what the sandbox really allows."""

    apply_qps: int = ACTIONS[APPLY].qps
    egress_qps: int = EGRESS_QPS
    real_apply_qps: int = ACTIONS[APPLY].qps

    @property
    def environment(self) -> dict[str, str]:
        """The settings of an instance."""
        return {"APPLY_TOKEN_QPS": str(self.apply_qps), "EGRESS_QPS": str(self.egress_qps)}

    async def set_at(self, cloud: CloudControl) -> None:
        """Set them at the sandbox."""
        qps = {APPLY: self.real_apply_qps}
        await cloud.order("POST", "limits", preset="v3", qps=qps, egress_qps=self.egress_qps)


TODAY: Final = Quotas()
PREVIOUS: Final = Quotas(PREVIOUS_QPS[APPLY], EGRESS_QPS, PREVIOUS_QPS[APPLY])
SEVERAL_ADDRESSES: Final = Quotas(PREVIOUS_QPS[APPLY], 2 * EGRESS_QPS, PREVIOUS_QPS[APPLY])
"""500 calls a second are only possible from several addresses; here one has the quota of two."""
HALF: Final = Quotas(real_apply_qps=ACTIONS[APPLY].qps // 2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row: ``devices`` new ones arrive within ``arrive_s`` seconds, beside those with a live token."""

    name: str
    devices: int
    arrive_s: float = 2.0
    min_s: float = 0.0
    max_s: float
    """The load ends when every device was served, and between these seconds."""
    fault: Fault | None = None
    quotas: Quotas = field(default=TODAY)
    is_saturated: bool = True
    """Whether there is more demand than quota."""

    @property
    def needs_several(self) -> bool:
        """Whether it makes no sense with one instance."""
        return self.fault is not None and self.fault.kills


def _injected(fault: str, *, delay_s: float = 0.0) -> Callable[[Scene, float], Awaitable[None]]:
    async def happens(scene: Scene, for_s: float) -> None:
        await scene.cloud.inject(fault, for_s, delay_s=delay_s)

    return happens


async def _refuse_connections(scene: Scene, for_s: float) -> None:
    await scene.cloud.order("POST", "gateway", down_s=for_s)


async def _block(scene: Scene, for_s: float) -> None:
    await scene.cloud.order("POST", "blocks", address="127.0.0.1", for_s=for_s)


async def _kill(scene: Scene, _: float) -> None:
    os.kill(scene.pids[0], signal.SIGKILL)


async def _pause(scene: Scene, for_s: float) -> None:
    os.kill(scene.pids[0], signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        os.kill(scene.pids[0], signal.SIGCONT)


def _from_the_start(fault: str, delay_s: float) -> Fault:
    return Fault(happens=_injected(fault, delay_s=delay_s), at_s=-0.5, for_s=600.0)


def _outage(
    name: str, happens: Callable[[Scene, float], Awaitable[None]], for_s: float, *, blocks: bool = False
) -> Case:
    """Return a row in which devices arrive before, during and after an outage."""
    fault = Fault(happens=happens, for_s=for_s, stops_service=True, wave_devices=WAVE_DEVICES, blocks=blocks)
    end_s = fault.at_s + for_s
    return Case(
        name=f"{name}: {for_s:g} s", devices=1000, arrive_s=end_s, min_s=end_s + 1, max_s=end_s + 75, fault=fault
    )


WAVE_DEVICES: Final = 500

_STORM: Final = 1500
"""New devices that keep today's quota busy for half a minute."""

CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "calm": Case(name="calm", devices=500, arrive_s=25, max_s=40, is_saturated=False),
        "4000": Case(name="4,000 new devices", devices=4000, max_s=150),
        "20000": Case(
            name="20,000 new devices, at 500/s", devices=20_000, arrive_s=10, max_s=180, quotas=SEVERAL_ADDRESSES
        ),
        "slow": Case(name="slow: 2.5 s", devices=_STORM, max_s=90, fault=_from_the_start("delay", 2.5)),
        "hanging": _outage("hanging", _injected("hang"), 28),
        "throttling": _outage("throttling", _injected("throttle"), 28),
        "garbage": _outage("garbage", _injected("garbage"), 20),
        "refusing": _outage("refusing connections", _refuse_connections, 20),
        "blocked": _outage("blocked", _block, 30, blocks=True),
        "half": Case(name="half the quota", devices=2000, min_s=80, max_s=80, quotas=HALF),
        "kill": Case(name="`kill -9` of an instance", devices=_STORM, max_s=90, fault=Fault(happens=_kill, kills=True)),
        "pause": Case(
            name="an instance paused: 5 s", devices=_STORM, max_s=90, fault=Fault(happens=_pause, for_s=PAUSE_S)
        ),
        "jitter": Case(
            name="network jitter: 30 ms", devices=_STORM, max_s=90, fault=_from_the_start("jitter", NETWORK_JITTER_S)
        ),
    }
)

REDUCED: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "calm": Case(name="calm", devices=100, arrive_s=5, max_s=15, quotas=PREVIOUS, is_saturated=False),
        "2000": Case(name="2,000 new devices, at 300/s", devices=2000, max_s=17, quotas=PREVIOUS),
        "slow": Case(name="slow: 2.5 s", devices=700, max_s=9, quotas=PREVIOUS, fault=_from_the_start("delay", 2.5)),
        "throttling": Case(
            name="throttling: 4 s",
            devices=400,
            max_s=12,
            quotas=PREVIOUS,
            fault=Fault(happens=_injected("throttle"), at_s=2.0, for_s=4.0, stops_service=True),
        ),
    }
)
"""What CI runs, all on the same processes, so all with the same quotas."""
