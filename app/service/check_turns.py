"""Turns for checks of proofs that will probably fail, within a share of the event loop's time.

Every stranger can have a signature checked. So strangers wait here for their turn, while a device with the right key is
checked at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from app.service.client_credentials import NotProven

SHARE: Final = 0.2
"""The share of the event loop's time that failing checks may take."""

SAVED_S: Final = 0.025
"""For how long time that was not used is saved up. A failure in calm then waits for nothing, and a burst of failures
holds the event loop up for 5 ms at most."""

TICK_S: Final = 0.001

_Result = TypeVar("_Result")


class ProcessorShare:
    """A share of a processor's time. There is no I/O here: ``now`` is in seconds, of a clock that never goes back."""

    def __init__(self, share: float, saved_s: float) -> None:
        """What is not used is saved up for ``saved_s`` seconds."""
        self._share = share
        self._saved_s = saved_s
        self.free_at = -math.inf
        """From when on something of the share is left."""

    def spend(self, used_s: float, now: float) -> None:
        """Note that so much processor time was used."""
        self.free_at = max(self.free_at, now - self._saved_s) + used_s / self._share


class _Turn(NamedTuple):
    """A check that waits, and its result, which its caller may have stopped waiting for."""

    check: Callable[[], Any]
    result: asyncio.Future[Any]


class CheckTurns:
    """Runs checks one after the other, those of known clients first."""

    def __init__(self, processor_s: Callable[[], float] = time.thread_time) -> None:
        """``processor_s`` returns the processor time that this thread has used, in seconds."""
        self._processor_s = processor_s
        self._share = ProcessorShare(SHARE, SAVED_S)
        self._known: deque[_Turn] = deque()
        self._others: deque[_Turn] = deque()
        self._next_run: asyncio.TimerHandle | None = None

    def check_at_once(self, check: Callable[[], _Result]) -> _Result:
        """Run a check that does not wait. If it raises ``NotProven``, its time is taken from the share even so."""
        before_s = self._processor_s()
        try:
            return check()
        except NotProven:
            self._share.spend(self._processor_s() - before_s, asyncio.get_running_loop().time())
            raise

    async def check_in_turn(self, check: Callable[[], _Result], *, is_known: bool, deadline: float) -> _Result:
        """Run a check when its turn comes; ``deadline`` is loop time in seconds.

        Raises ``TimeoutError`` if it does not come by then, and what ``check`` raises.
        """
        if not self._known and (is_known or not self._others) and self._is_free():
            return self.check_at_once(check)
        turn = _Turn(check, asyncio.get_running_loop().create_future())
        (self._known if is_known else self._others).append(turn)
        self._plan()
        async with asyncio.timeout_at(deadline):
            result: _Result = await turn.result
        return result

    def _is_free(self) -> bool:
        return self._share.free_at <= asyncio.get_running_loop().time()

    def _plan(self) -> None:
        if self._next_run is None and (self._known or self._others):
            loop = asyncio.get_running_loop()
            wait_s = self._share.free_at - loop.time()
            # One check in a turn of the loop, so that it delays nothing else by more than that. uvloop rounds to whole
            # milliseconds: a shorter timer would fire at once, again and again.
            self._next_run = loop.call_later(max(wait_s, TICK_S) if wait_s > 0 else 0, self._run_next)

    def _run_next(self) -> None:
        self._next_run = None
        if self._is_free() and (turn := self._next()):
            try:
                turn.result.set_result(self.check_at_once(turn.check))
            except Exception as error:  # noqa: BLE001 (it is raised where it is waited for)
                turn.result.set_exception(error)
        self._plan()

    def _next(self) -> _Turn | None:
        """Take the first turn whose caller has not given up."""
        for waiting in (self._known, self._others):
            while waiting:
                turn = waiting.popleft()
                if not turn.result.done():
                    return turn
        return None
