"""Faults on demand, for tests and rehearsals: calls of an action, or of all, are held back, failed, cut or mangled."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

HOLD_LIMIT_S: Final = 600.0
"""No call is held for longer; then it is dropped."""

EVERY_ACTION: Final = "*"
"""Orders a fault for all actions."""


class Kind(Enum):
    """What goes wrong."""

    HOLD = "hold"
    """The call takes effect and is answered after ``release``; also if its caller has gone away by then."""
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
    """The call has no effect and is answered 200 with bytes that are no text."""
    HTML = "html"
    """The call has no effect and is answered 502 with a proxy's HTML page."""


@dataclass(slots=True, eq=False)
class ActiveFault:
    """One order for a fault."""

    id: str
    action: str
    kind: Kind
    code: str
    delay_s: float
    times: int | None
    """Calls it still befalls; ``None`` is until cleared."""
    rate: float
    """The share of calls it befalls."""
    dice: random.Random


@dataclass(slots=True)
class Faults:
    """The active faults in the order they were asked for, and the calls held or hanging now."""

    active: list[ActiveFault] = field(default_factory=list)
    _waiting: dict[asyncio.Future[bool], str] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(
        self,
        action: str,
        kind: Kind,
        *,
        code: str = "",
        delay_s: float = 0.0,
        times: int | None = 1,
        rate: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Order a fault for ``action`` and return its ID. Equal seeds befall the same calls of a sequence."""
        dice = random.Random(seed)  # noqa: S311 - a rehearsal is to be repeatable
        fault = ActiveFault(f"fault-{next(self._ids)}", action, kind, code, delay_s, times, rate, dice)
        self.active.append(fault)
        return fault.id

    def take(self, action: str) -> ActiveFault | None:
        """Return the fault that befalls this call of ``action``, used up by one."""
        for fault in self.active:
            if fault.action in (action, EVERY_ACTION) and fault.dice.random() < fault.rate:
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.active.remove(fault)
                return fault
        return None

    async def wait(self, action: str) -> bool:
        """Wait to be released; ``False`` if the limit passed or the sandbox stops."""
        released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[released] = action
        try:
            async with asyncio.timeout(HOLD_LIMIT_S):
                return await released
        except TimeoutError:
            return False
        finally:
            del self._waiting[released]

    def held(self, action: str) -> int:
        """Return how many calls of ``action`` are waiting now."""
        return sum(1 for waiting in self._waiting.values() if waiting == action)

    def release(self, action: str | None = None, *, go_on: bool = True) -> int:
        """Let the waiting calls of ``action`` (or all) go on, or be dropped; return how many there were."""
        chosen = [future for future, waiting in self._waiting.items() if action in (None, waiting)]
        for future in chosen:
            if not future.done():
                future.set_result(go_on)
        return len(chosen)

    def clear(self) -> None:
        """Forget every fault and release every waiting call."""
        self.active.clear()
        self.release()
