"""The cloud without sockets: how long calls are on their way, when it answers, and what it saw."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import Final

from app.cloud.attempts import Attempts
from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import CallOutcome
from app.model.calls import CallRank
from app.store.quota import QuotaSettings
from tests.simulation.instances import Instance

ACTION: Final = "ApplyToken"

FASTEST_S: Final = 0.01
"""How long a call is on its way at least; the jitter is added to it, and the answer takes as long."""


class SimulatedCloud:
    """A cloud that answers every call from ``back_at`` on (loop time, in seconds), and none before."""

    def __init__(self, limits: QuotaSettings, back_at: float, chance: random.Random) -> None:
        self._limits = limits
        self._back_at = back_at
        self._chance = chance
        self._recent: deque[float] = deque()
        self.most_in_a_second = 0
        """The most calls that arrived in any second."""
        self.answered_first_at = math.inf
        """When the first call was answered."""

    async def apply(self, instance: Instance, deadline: float) -> None:
        """Call as ``SignedCalls`` does, until there is an answer. Raises ``CloudError``."""
        loop = asyncio.get_running_loop()
        attempts = Attempts(until=deadline, repeatable=True)
        while True:
            try:
                await self._attempt(instance, attempts.until)
            except CloudError as error:
                pause_s = attempts.next_pause_s(error, loop.time())
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
            else:
                return

    async def _attempt(self, instance: Instance, deadline: float) -> None:
        async with instance.pacing.place(ACTION, rank=CallRank.FIRST, deadline=deadline) as place:
            permit = await place.permit()
            error = await self._answer(deadline)
            instance.watch.note(CallOutcome(ACTION, error, permit))
            if error:
                raise error

    async def _answer(self, deadline: float) -> CloudError | None:
        sent_at = asyncio.get_running_loop().time()
        way_s = FASTEST_S + self._chance.uniform(0, self._limits.jitter_s)
        await asyncio.sleep(way_s)
        if self._arrived():
            await asyncio.sleep(way_s)
            return None
        await asyncio.sleep(min(self._limits.attempt_timeout_s, deadline - sent_at) - way_s)
        return CloudError(ErrorKind.UNREACHABLE, "Timeout", "no answer", uncertain=True)

    def _arrived(self) -> bool:
        """Count a call that arrives; return whether it is answered."""
        now = asyncio.get_running_loop().time()
        self._recent.append(now)
        while self._recent[0] <= now - 1:
            self._recent.popleft()
        self.most_in_a_second = max(self.most_in_a_second, len(self._recent))
        if now < self._back_at:
            return False
        self.answered_first_at = min(self.answered_first_at, now)
        return True
