"""The cloud's quotas, kept by this process: per API, and over all APIs for its IP address (guide chapter 8)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final

from app.cloud.errors import CloudError, Kind
from app.rpc.catalog import ACTIONS, EGRESS_QPS

PACE: Final = 0.98
"""The share of a limit that is used: a second of the cloud's is not quite a second of ours."""

DEFAULT_QPS: Final[Mapping[str, float]] = MappingProxyType({action.name: action.qps for action in ACTIONS.values()})


class QuotaExhausted(CloudError):
    """The caller's turn would come after its deadline. ``retry_after_s`` is how long the line is now."""

    retry_after_s: float

    def __init__(self, action: str, retry_after_s: float) -> None:
        super().__init__(
            Kind.THROTTLED,
            "QuotaExhausted",
            f"the line for {action} is {retry_after_s:.1f} s long",
            retry_after_s=retry_after_s,
        )


class _Pacer:
    """One limit: a line, and the earliest instant of the next turn."""

    def __init__(self, qps: float) -> None:
        self._interval_s = 1 / (PACE * qps)
        self._line = asyncio.Lock()  # wakes its waiters in the order they came
        self._in_line = 0
        self._ready_at = -math.inf

    def wait_s(self) -> float:
        """Return how long one who joins the line now will wait."""
        pause_s = max(0.0, self._ready_at - asyncio.get_running_loop().time())
        return pause_s + self._in_line * self._interval_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn; it is taken when the block is left without an exception."""
        clock = asyncio.get_running_loop().time
        self._in_line += 1
        try:
            async with self._line:
                await asyncio.sleep(max(0.0, self._ready_at - clock()))
                yield
                # Counted from when the turn was due: a sleep that ends a little early does not quicken the pace.
                self._ready_at = max(self._ready_at, clock()) + self._interval_s
        finally:
            self._in_line -= 1


class Quota:
    """Permits to call, first come, first served for each API.

    Calls are evenly spaced, without bursts: within any one second there are never more than the limit.
    """

    def __init__(self, qps: Mapping[str, float] = DEFAULT_QPS, egress_qps: float = EGRESS_QPS) -> None:
        """Take the limits in calls a second: for each action, and for all together."""
        self._pacers = {action: _Pacer(limit) for action, limit in qps.items()}
        self._egress = _Pacer(egress_qps)

    async def permit(self, action: str, *, deadline: float) -> None:
        """Wait for the turn to call ``action`` once; ``deadline`` is an instant of ``loop.time()``.

        Raises ``QuotaExhausted``, at once where the line is too long already. A waiter that is cancelled has taken
        nothing, and those behind it move up.
        """
        pacer = self._pacers[action]
        wait_s = max(pacer.wait_s(), self._egress.wait_s())
        if wait_s and asyncio.get_running_loop().time() + wait_s > deadline:
            raise QuotaExhausted(action, wait_s)
        try:
            # Nothing is taken from the egress quota while waiting for the API's: a line for a slow API must not hold
            # back an idle one.
            async with asyncio.timeout_at(deadline), pacer.turn(), self._egress.turn():
                pass
        except TimeoutError:
            raise QuotaExhausted(action, max(pacer.wait_s(), self._egress.wait_s())) from None
