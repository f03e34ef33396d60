"""Faults on demand, for tests and rehearsals: calls are held, delayed, refused, cut off or answered with garbage."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

HOLD_LIMIT_S: Final = 600.0
"""After this time a held call is dropped."""

EVERY_ACTION: Final = "*"
"""The action of a fault that applies to all actions."""


class FaultKind(Enum):
    """What goes wrong with a call."""

    HOLD = "hold"
    """The call takes effect and is answered after ``release``, even if its caller has disconnected by then."""
    DELAY = "delay"
    """The call takes effect and is answered after ``delay_s``."""
    ERROR = "error"
    """The call has no effect and is answered with ``code``."""
    THROTTLE = "throttle"
    """The call has no effect and is answered with its action's overflow code."""
    DROP = "drop"
    """The call has no effect; the connection is closed without an answer."""
    HANG = "hang"
    """The call has no effect; the connection stays open without an answer until the faults are cleared."""
    HALF = "half"
    """The call takes effect; half of its answer is sent, then the connection is closed."""
    GARBAGE = "garbage"
    """The call has no effect and is answered 200 with JSON of the wrong shape."""
    NOISE = "noise"
    """The call has no effect and is answered 200 with bytes that are not text."""
    HTML = "html"
    """The call has no effect and is answered 502 with the HTML page of a proxy."""
    JITTER = "jitter"
    """Any request arrives later, by a random time of at most ``delay_s``, as if the network had delayed it."""


@dataclass(slots=True, eq=False, kw_only=True)
class ActiveFault:
    """A fault that will happen to calls."""

    id: str
    action: str
    kind: FaultKind
    code: str
    delay_s: float
    times: int | None
    """How many more calls it happens to; ``None`` for all until it is cleared."""
    rate: float
    """The share of calls that it happens to, above 0 and at most 1."""
    generator: random.Random
    """Decides which calls those are, and how long a delay is."""
    ends_by_itself: asyncio.TimerHandle | None = None

    def happens(self) -> bool:
        """Return whether it happens to the next call."""
        return self.generator.random() < self.rate


@dataclass(slots=True)
class FaultInjector:
    """The active faults in the order in which they were added, and the calls that wait now."""

    active: list[ActiveFault] = field(default_factory=list)
    injected: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How many calls faults happened to, by action and kind."""
    _waiting: dict[asyncio.Future[bool], tuple[str, ActiveFault]] = field(default_factory=dict)
    """Held calls, each with its action and the fault that holds it."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add_fault(
        self,
        action: str,
        kind: FaultKind,
        *,
        code: str = "",
        delay_s: float = 0.0,
        times: int | None = 1,
        rate: float = 1.0,
        seed: int = 0,
        for_s: float | None = None,
    ) -> str:
        """Add a fault and return its ID. With equal seeds it happens to the same calls of a sequence.

        After ``for_s`` seconds it ends, and the calls that it holds are released; ``None`` for no such end.
        """
        fault = ActiveFault(
            id=f"fault-{next(self._ids)}",
            action=action,
            kind=kind,
            code=code,
            delay_s=delay_s,
            times=times,
            rate=rate,
            generator=random.Random(seed),  # noqa: S311 - a rehearsal must be repeatable
        )
        if for_s is not None:
            fault.ends_by_itself = asyncio.get_running_loop().call_later(for_s, self._end_fault, fault)
        self.active.append(fault)
        return fault.id

    def take_fault(self, action: str) -> ActiveFault | None:
        """Return the fault that happens to this call of ``action``, and count it down."""
        for fault in self.active:
            if fault.kind is not FaultKind.JITTER and fault.action in (action, EVERY_ACTION) and fault.happens():
                self._count_down(fault)
                self.injected[action][fault.kind.value] += 1
                return fault
        return None

    def next_delay_s(self) -> float:
        """Return by how much the network delays the request that arrives now."""
        delay_s = 0.0
        for fault in self.active.copy():
            if fault.kind is FaultKind.JITTER and fault.happens():
                self._count_down(fault)
                delay_s += fault.generator.uniform(0, fault.delay_s)
        return delay_s

    async def wait_for_release(self, action: str, fault: ActiveFault) -> bool:
        """Wait until a call is released; return ``False`` after ``HOLD_LIMIT_S`` or when the sandbox stops."""
        released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[released] = action, fault
        try:
            async with asyncio.timeout(HOLD_LIMIT_S):
                return await released
        except TimeoutError:
            return False
        finally:
            del self._waiting[released]

    def count_held(self, action: str) -> int:
        """Return how many calls of ``action`` wait now."""
        return sum(1 for waiting, _ in self._waiting.values() if waiting == action)

    def release_calls(self, action: str | None = None, *, go_on: bool = True) -> int:
        """Let the waiting calls of ``action`` (or all) go on, or drop them; return how many they were."""
        chosen = [future for future, (waiting, _) in self._waiting.items() if action in (None, waiting)]
        return _release(chosen, go_on=go_on)

    def clear_faults(self) -> None:
        """Remove every fault and release every waiting call."""
        self.stop_timers()
        self.active.clear()
        self.release_calls()

    def stop_timers(self) -> None:
        """Let no fault end by itself any more."""
        for fault in {*self.active, *(holding for _, holding in self._waiting.values())}:
            if fault.ends_by_itself is not None:
                fault.ends_by_itself.cancel()

    def _count_down(self, fault: ActiveFault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.active.remove(fault)

    def _end_fault(self, fault: ActiveFault) -> None:
        if fault in self.active:
            self.active.remove(fault)
        _release([future for future, (_, holding) in self._waiting.items() if holding is fault], go_on=True)


def _release(calls: list[asyncio.Future[bool]], *, go_on: bool) -> int:
    for released in calls:
        if not released.done():
            released.set_result(go_on)
    return len(calls)
