"""A bounded share of the event loop, for work that must not slow other work down.

One event loop serves devices, operators and strangers. A coroutine that runs under a share is resumed only when the
share allows it, and the processor time of each of its steps is counted: a step goes from one ``await`` that suspends
the coroutine to the next. So all that it does counts, and a new page or endpoint needs no care of its own. A step
cannot be interrupted: work that takes longer than a moment goes through ``in_slices``.

After a step the share rests for so long that over time it takes no more than its part. There is at most one step in a
turn of the loop, so that all else that is ready continues before the next. The work that has used least goes first: a
page does not wait for exports, and two exports advance equally.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from time import perf_counter, thread_time
from types import coroutine
from typing import Any, Final, TypeVar

SLICE_S: Final = 0.0005
"""How long work may continue before the loop gets its turn: about as long as a token request takes."""

TICK_S: Final = 0.001
"""The resolution of uvloop's timers; a shorter rest is left out, and made up for by the next."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Work = Callable[[], Coroutine[Any, Any, _Result]]
_Waiter = tuple[float, int, asyncio.Future[None]]


class LoopShare:
    """Runs coroutines within a share of the loop's processor time, which they have in common."""

    def __init__(self, share: float, *, burst_s: float, processor_s: Callable[[], float] = thread_time) -> None:
        """Allow ``share`` of the loop (0 to 1), and after a rest up to ``burst_s`` seconds of processor time beyond it.

        ``processor_s`` is the clock of the loop's thread.
        """
        self._share = share
        self._burst_s = burst_s
        self._processor_s = processor_s
        self._paid_at = 0.0  # the loop's time at which all that was used is within the share
        self._waiters: list[_Waiter] = []
        self._order = count()
        self._turn_is_taken = False
        self._next_turn: asyncio.Handle | None = None
        self._in_progress = 0

    @property
    def in_progress(self) -> int:
        """How many coroutines run or wait for a turn. There is no bound here: who runs them says when it is enough."""
        return self._in_progress

    @property
    def waiting(self) -> int:
        """How many coroutines wait for a turn."""
        return len(self._waiters)

    async def run(self, work: Work[_Result]) -> _Result:
        """Run ``work`` within the share; return or raise as it does. A cancellation reaches it without a turn."""
        self._in_progress += 1
        try:
            return await self._drive(work(), in_turn=True)
        finally:
            self._in_progress -= 1

    async def count(self, work: Work[_Result]) -> _Result:
        """Run ``work`` without waiting, and count what it uses: what runs within the share waits for it."""
        return await self._drive(work(), in_turn=False)

    @coroutine
    def _drive(self, work: Coroutine[Any, Any, _Result], *, in_turn: bool) -> Generator[Any, Any, _Result]:
        """Make the steps of ``work``. What it awaits is passed on to the task, which then resumes this generator."""
        used_s = 0.0
        step: Callable[[], Any] = partial(work.send, None)
        waits = in_turn
        while True:
            has_turn = False
            try:
                if waits:
                    yield from self._take_turn(used_s)
                    has_turn = True
            except BaseException as error:  # noqa: BLE001 (it is for the work to handle)
                step = partial(work.throw, error)
            began_s = self._processor_s()
            _SLICE.begin()
            try:
                awaited = step()
            except StopIteration as end:
                result: _Result = end.value
                return result
            finally:
                spent_s = self._processor_s() - began_s
                used_s += spent_s
                self._spend(spent_s)
                if has_turn:
                    self._end_turn()
            try:
                step, waits = partial(work.send, (yield awaited)), in_turn
            except BaseException as error:  # noqa: BLE001
                step, waits = partial(work.throw, error), in_turn and isinstance(error, Exception)

    def _take_turn(self, used_s: float) -> Generator[Any, None, None]:
        """Wait for a turn. Of all that wait, the work that has used least gets it."""
        if not (self._turn_is_taken or self._next_turn or self._rest_s() >= TICK_S):
            self._turn_is_taken = True
            return
        waiter = (used_s, next(self._order), asyncio.get_running_loop().create_future())
        heappush(self._waiters, waiter)
        if not (self._turn_is_taken or self._next_turn):
            self._plan_turn()
        try:
            yield from waiter[2]
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                heapify(self._waiters)
            elif not waiter[2].cancelled():  # the turn and the cancellation came together
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        self._turn_is_taken = False
        self._plan_turn()

    def _plan_turn(self) -> None:
        """Give a turn after the rest that is due, and not in this turn of the loop."""
        loop, rest_s = asyncio.get_running_loop(), self._rest_s()
        if rest_s < TICK_S:
            self._next_turn = loop.call_soon(self._give_turn)
        else:
            self._next_turn = loop.call_later(rest_s, self._give_turn)

    def _give_turn(self) -> None:
        self._next_turn = None
        if self._rest_s() >= TICK_S:  # more was used meanwhile
            self._plan_turn()
            return
        while self._waiters:
            _, _, turn = heappop(self._waiters)
            if not turn.done():  # else it was cancelled a moment ago
                self._turn_is_taken = True
                turn.set_result(None)
                return

    def _spend(self, spent_s: float) -> None:
        began_at = asyncio.get_running_loop().time() - spent_s
        self._paid_at = max(self._paid_at, began_at) + spent_s / self._share

    def _rest_s(self) -> float:
        """Return for how many seconds there is no turn."""
        return self._paid_at - asyncio.get_running_loop().time() - self._burst_s / self._share


class _Slice:
    """The slice of work that is being done. At its end the event loop continues, whichever loop of the work notices."""

    def __init__(self) -> None:
        self.ends_at = 0.0

    def begin(self) -> None:
        self.ends_at = perf_counter() + SLICE_S


_SLICE: Final = _Slice()


async def in_slices(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Yield ``items``, which are made as they are needed, and let the event loop continue at the end of each slice.

    A slice begins with each step of work in a share, and is the same for one loop of it after another.
    """
    for item in items:
        yield item
        if perf_counter() >= _SLICE.ends_at:
            await asyncio.sleep(0)
            _SLICE.begin()
