"""Limits on failed authentications: by client ID and by address, over all instances.

They slow guesses down and make a misconfigured device wait. They never stop the right key: a proof is checked first, so
an attacker who has a client ID reach its limit does not keep its device out.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, NoReturn

from app.errors import Refusal, TooManyFailures, Unavailable
from app.model.ip_addresses import network_of
from app.store.clock import RedisClock
from app.store.constants import FAILURES_KEPT_MS
from app.store.failures import FailureCounter, FailureCounts

COUNT_EVERY_S: Final = 0.025
"""Failures are counted together, so often at most: with ``appendfsync always`` each round trip waits for the disk."""

COUNTED_WITHIN_S: Final = 5.0

MAX_UNDER_WAY: Final = 200
"""Failing requests that an instance refuses at a time: in half a second they are done, checks included."""

BUSY_S: Final = 1
"""When to come back if there are more."""

MAX_REMEMBERED: Final = 10_000
"""Full counters that an instance remembers; one that it forgot is asked for again."""


class _Failure(NamedTuple):
    """A failure that waits to be counted; ``full_ms`` is for each counter 0, or for how many ms it is full."""

    counters: Sequence[FailureCounter]
    full_ms: asyncio.Future[list[int]]


def counters_of(*, client_id: str = "", address: str = "") -> tuple[FailureCounter, ...]:
    """Return by what a failure is counted: the client ID that was claimed and the address, as far as they are known."""
    counters = FailureCounter("client ID", client_id), FailureCounter("address", network_of(address))
    return tuple(counter for counter in counters if counter.name)


class FailureLimits:
    """Counts failures, and remembers which counters are full."""

    def __init__(self, counts: FailureCounts, clock: RedisClock) -> None:
        """Count in ``counts``, by the time of ``clock``; ``count_failures`` must run."""
        self._counts = counts
        self._clock = clock
        self._waiting: list[_Failure] = []
        self._any_waiting = asyncio.Event()
        self._under_way = 0
        self._full_until_ms: OrderedDict[FailureCounter, int] = OrderedDict()

    def full_ms(self, counters: Sequence[FailureCounter]) -> dict[FailureCounter, int]:
        """Return which counters are full and for how many ms, as far as this instance knows without asking Redis."""
        now_ms = self._clock.now_ms()
        left_ms = {counter: self._full_until_ms.get(counter, 0) - now_ms for counter in counters}
        # Not for longer than a count lasts, even if the clock was set back.
        return {counter: min(ms, FAILURES_KEPT_MS) for counter, ms in left_ms.items() if ms > 0}

    @contextmanager
    def place(self) -> Iterator[None]:
        """Allow one failing request in the block. Raises ``TooManyFailures`` if too many are under way."""
        if self._under_way >= MAX_UNDER_WAY:
            raise too_many_failures(BUSY_S, cause=f"{MAX_UNDER_WAY} failing requests under way")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def refuse(self, counters: Sequence[FailureCounter], refusal: Refusal) -> NoReturn:
        """Count a failure. Raises ``refusal``, or ``TooManyFailures`` beyond a limit; ``Unavailable`` without Redis."""
        # A full counter counts nothing, so a flood costs Redis nothing either.
        full_ms = self.full_ms(counters) or await self._count(counters)
        if not full_ms:
            raise refusal
        reached = [f"{counter.limit} a minute {_whose(counter)}" for counter in full_ms]
        wait_s = math.ceil(max(full_ms.values()) / 1000)
        raise too_many_failures(wait_s, cause="; ".join([refusal.cause, *reached]))

    async def count_failures(self) -> None:
        """Count what waits to be counted, until cancelled."""
        while True:
            await self._any_waiting.wait()
            self._any_waiting.clear()
            await self._count_waiting()
            await asyncio.sleep(COUNT_EVERY_S)

    async def _count(self, counters: Sequence[FailureCounter]) -> dict[FailureCounter, int]:
        """Wait until a failure is counted; returns which counters were full, and for how many ms they are."""
        if not counters:
            return {}
        failure = _Failure(counters, asyncio.get_running_loop().create_future())
        self._waiting.append(failure)
        self._any_waiting.set()
        try:
            async with asyncio.timeout(COUNTED_WITHIN_S):
                counted = await failure.full_ms
        except TimeoutError:
            raise Unavailable("the server is busy: try again", cause="a failure was not counted in time") from None
        full_ms = {counter: ms for counter, ms in zip(counters, counted, strict=True) if ms}
        self._remember(full_ms)
        return full_ms

    async def _count_waiting(self) -> None:
        failures = [failure for failure in self._waiting if not failure.full_ms.done()]
        self._waiting.clear()
        try:
            counted = await self._counts.count_failures([failure.counters for failure in failures])
        except Unavailable as error:
            _end_all(failures, error)
            return
        for failure, full_ms in zip(failures, counted, strict=True):
            if not failure.full_ms.done():
                failure.full_ms.set_result(full_ms)

    def _remember(self, full_ms: Mapping[FailureCounter, int]) -> None:
        now_ms = self._clock.now_ms()
        for counter, wait_ms in full_ms.items():
            self._full_until_ms[counter] = now_ms + wait_ms
            self._full_until_ms.move_to_end(counter)
        while len(self._full_until_ms) > MAX_REMEMBERED:
            self._full_until_ms.popitem(last=False)


def too_many_failures(wait_s: int, *, cause: str) -> TooManyFailures:
    """Return the refusal of a caller who did not authenticate; the same words whatever is known of them."""
    return TooManyFailures(
        f"too many failed authentications: wait {wait_s} s, then authenticate with the right key",
        cause=cause,
        retry_after_s=wait_s,
    )


def _whose(counter: FailureCounter) -> str:
    return "of this client ID" if counter.by == "client ID" else f"from {counter.name}"


def _end_all(failures: Sequence[_Failure], error: Unavailable) -> None:
    for failure in failures:
        if not failure.full_ms.done():
            failure.full_ms.set_exception(Unavailable(error.description, cause=error.cause))
