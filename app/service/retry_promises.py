"""When devices that are refused should come back: each at an instant of its own, behind all that were promised before.

``promise_retry.lua`` says how the instants follow from the queues and the pace, for all instances together. An instance
asks once for all that it refuses in one turn of its loop.

A device that comes before its time is given the same instant again. If each refusal took another one, a single device
that ignores ``Retry-After`` could move the instants of all others into the far future. So it takes one each time that
it was given has passed, at each instance. Redis holds nothing about it: an instance remembers the devices that it
refused last, so that those which come back all the time are not forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from app.errors import Unavailable
from app.store.quota import SharedQuota
from app.tasks import end

ACTION: Final = "ApplyToken"

ASK_WITHIN_S: Final = 0.3
"""How long Redis may take; a caller that is refused keeps some more time than that for its answer."""

WITHOUT_REDIS_S: Final = 1.0
"""When to come back where Redis does not answer."""

MAX_REMEMBERED: Final = 20_000
"""Devices whose instant an instance remembers: about 6 MB."""


@dataclass(slots=True, eq=False)
class _Block:
    """The instants of those that were refused in one turn of the loop; in loop time, known once ``answered`` is set."""

    starts_at: float
    """Where nothing was promised, because Redis did not answer or the instance stops, a fixed time from now."""
    permits: int = 0
    step_s: float = 0.0
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class _Instant(NamedTuple):
    """A device's instant: that of the permit at ``place`` (from 1) of a block."""

    block: _Block
    place: int

    @property
    def at(self) -> float:
        return self.block.starts_at + self.place * self.block.step_s

    def has_passed(self, now: float) -> bool:
        return self.block.answered.is_set() and self.at <= now


class RetryPromises:
    """The instants that one instance promises."""

    def __init__(self, quota: SharedQuota) -> None:
        """Take blocks of instants from ``quota``."""
        self._quota = quota
        self._block: _Block | None = None
        """What this turn's callers are promised."""
        self._instants: OrderedDict[str, _Instant] = OrderedDict()
        """By client ID; those that were asked for last are at the end."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def next_s(self, client_id: str, permits: int) -> float:
        """Return in how many seconds the device should come back, for whose token ``permits`` calls are needed.

        Without Redis that is a fixed time.
        """
        loop = asyncio.get_running_loop()
        instant = self._instants.get(client_id)
        if instant is None or instant.has_passed(loop.time()):
            instant = self._instants[client_id] = self._take(permits)
            if len(self._instants) > MAX_REMEMBERED:
                self._instants.popitem(last=False)
        self._instants.move_to_end(client_id)
        await instant.block.answered.wait()
        return max(0.0, instant.at - loop.time())

    async def close(self) -> None:
        """End what is under way; those that wait for it get the fixed time."""
        await end(self._tasks)
        if self._block is not None:  # its task was cancelled before its first step
            self._block.answered.set()

    def _take(self, permits: int) -> _Instant:
        block = self._block
        if block is None:
            block = self._block = _Block(asyncio.get_running_loop().time() + WITHOUT_REDIS_S)
            # It begins in the next turn: until then others join the block.
            task = asyncio.create_task(self._ask(block), name="promise")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        block.permits += permits
        return _Instant(block, block.permits)

    async def _ask(self, block: _Block) -> None:
        self._block = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                promise = await self._quota.promise_retry(ACTION, block.permits)
            block.starts_at, block.step_s = loop.time() + promise.start_in_s, promise.step_s
        except (Unavailable, TimeoutError):
            block.starts_at = loop.time() + WITHOUT_REDIS_S  # some time has passed
        finally:
            block.answered.set()
