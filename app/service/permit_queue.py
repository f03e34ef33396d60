"""The queue of one instance for the permits of one API: who waits, who is served, what to ask for next.

There is no I/O here. Every ``now`` and ``deadline`` is loop time in seconds, and ``app.service.pacing`` passes it in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from app.cloud.quota import QuotaExhausted, QuotaUnreachable
from app.model.calls import CallRank
from app.store.quota import PermitGrant, PermitQuestion

VALID_S: Final = 0.1
"""How long after it was asked for a permit may be used; then it is void."""

MIN_BATCH_S: Final = 0.01
MAX_BATCH_S: Final = 0.05
"""A batch is what the pace brings from one question to the next, within these bounds: small, so that an instance
that is held up holds few permits with it, but enough where Redis takes long to answer."""

HEARTBEAT_S: Final = 0.25
"""A queue is reported to the other instances at least this often; one that is not reported is forgotten after 1 s."""

CALL_SHARE: Final = 1 / 8
"""The share of the caller's time that is kept for the call itself."""


class _State(Enum):
    WAITING = auto()
    GRANTED = auto()
    """Permits are set aside, and not used yet."""
    REFUSED = auto()
    GONE = auto()
    """The permits were used, or the caller stopped waiting."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A caller that waits for ``count`` permits at once, until ``until`` at most.

    ``on_decided`` is called when the permits are granted or refused.
    """

    count: int
    until: float
    on_decided: Callable[[], None]
    state: _State = _State.WAITING
    void_at: float = 0.0
    refusal: QuotaExhausted | QuotaUnreachable | None = None


class PermitQueue:
    """Waiters of one API, first come, first served, and the permits that were granted and not used yet."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._waiters: deque[Waiter] = deque()
        """Those that are not waiting any more are dropped when they reach the head."""
        self._stock = 0
        self._stock_void_at = 0.0
        self._asked_at = 0.0
        self._was_in_time = True
        """Whether the last permits came, and were used, before they were void."""
        self._last: PermitGrant | None = None
        """The last answer since this queue was last empty."""
        self.waiting = 0
        """How many permits are waited for."""

    def join(self, count: int, *, deadline: float, now: float, on_decided: Callable[[], None]) -> Waiter:
        """Add a caller; if permits are left over and no other caller waits, they are granted at once.

        Raises ``QuotaExhausted`` if the caller's turn would come too late, as far as is known.
        """
        waiter = Waiter(count, _latest(now, deadline), on_decided)
        if not self.waiting and self._valid_stock(now) >= count:
            self._grant(waiter)
            return waiter
        if refusal := self.refusal(count, deadline=deadline, now=now):
            raise refusal
        self._waiters.append(waiter)
        self.waiting += count
        return waiter

    def refusal(self, count: int, *, deadline: float, now: float) -> QuotaExhausted | None:
        """Return why ``count`` more permits would come too late, if that is known."""
        is_late = self._last and now + self._last.wait_s(self.waiting + count) > _latest(now, deadline)
        return self.exhausted() if is_late else None

    def is_served(self, waiter: Waiter, now: float) -> bool:
        """Return whether the waiter may call now; its permits are then used. Raises its refusal.

        Permits that became void meanwhile (this process was paused) put the waiter back to the head of the queue.
        """
        if waiter.refusal:
            raise waiter.refusal
        if waiter.state is not _State.GRANTED:
            return False
        if now < waiter.void_at:
            waiter.state = _State.GONE
            return True
        self._was_in_time = False
        waiter.state = _State.WAITING
        self._waiters.appendleft(waiter)
        self.waiting += waiter.count
        return False

    def leave(self, waiter: Waiter, now: float) -> None:
        """Let a waiter go, served or not. Permits that it was granted and did not use go to the next."""
        if waiter.state is _State.WAITING:
            self.waiting -= waiter.count
        elif waiter.state is _State.GRANTED:
            self._add_to_stock(waiter.count, void_at=waiter.void_at, now=now)
            self._hand_out(now)
        waiter.state = _State.GONE

    def question(self, now: float) -> PermitQuestion:
        """Return what to ask for now: at least enough for the first in the queue."""
        stock = self._valid_stock(now)
        since_last_s = now - self._asked_at if self._last else 0
        self._asked_at = now
        first = next((each.count for each in self._waiters if each.state is _State.WAITING), 1)
        least = max(1, first - stock)
        # An instance that was too late to use its last permits takes few: the others lose them.
        batch_s = min(MAX_BATCH_S, max(MIN_BATCH_S, since_last_s)) if self._was_in_time else 0
        waiting = max(least, self.waiting - stock)
        return PermitQuestion(waiting, waiting, least, batch_s, VALID_S, CallRank.FIRST)

    def answered(self, grant: PermitGrant, now: float) -> None:
        """Hand out what was granted. After the first answer refuse those that joined before anything was known."""
        void_at = self._asked_at + VALID_S
        self._was_in_time = now < void_at
        self._add_to_stock(grant.permits, void_at=void_at, now=now)
        self._hand_out(now)
        if self._last is None:
            self._refuse_late(grant, now)
        self._last = grant

    def forget_others(self) -> None:
        """Forget what was known of other instances' queues: it is true only while this one asks."""
        self._last = None

    def refuse_all(self, cause: str) -> None:
        """Refuse every waiter: permits cannot be asked for."""
        for waiter in self._waiters:
            if waiter.state is _State.WAITING:
                self._refuse(waiter, QuotaUnreachable(cause))
        self._waiters.clear()

    def exhausted(self) -> QuotaExhausted:
        """Return the refusal of a caller whose turn comes too late."""
        return QuotaExhausted(self._action, self._last.backlog_s(self.waiting) if self._last else HEARTBEAT_S)

    def _valid_stock(self, now: float) -> int:
        if now >= self._stock_void_at:
            self._stock = 0
        return self._stock

    def _add_to_stock(self, permits: int, *, void_at: float, now: float) -> None:
        # Mixed with older permits they become void with those.
        self._stock_void_at = min(self._stock_void_at, void_at) if self._valid_stock(now) else void_at
        self._stock += permits

    def _hand_out(self, now: float) -> None:
        while self._waiters:
            head = self._waiters[0]
            if head.state is _State.WAITING:
                if head.count > self._valid_stock(now):
                    return
                self.waiting -= head.count
                self._grant(head)
                head.on_decided()
            self._waiters.popleft()

    def _grant(self, waiter: Waiter) -> None:
        self._stock -= waiter.count
        waiter.state, waiter.void_at = _State.GRANTED, self._stock_void_at

    def _refuse_late(self, grant: PermitGrant, now: float) -> None:
        place = 0
        for waiter in self._waiters:
            if waiter.state is _State.WAITING:
                place += waiter.count
                if now + grant.wait_s(place) > waiter.until:
                    self._refuse(waiter, QuotaExhausted(self._action, grant.backlog_s(self.waiting)))
                    place -= waiter.count

    def _refuse(self, waiter: Waiter, refusal: QuotaExhausted | QuotaUnreachable) -> None:
        waiter.state, waiter.refusal = _State.REFUSED, refusal
        self.waiting -= waiter.count
        waiter.on_decided()


def _latest(now: float, deadline: float) -> float:
    """Return until when to wait: some of the time is for the call itself."""
    return now + (deadline - now) * (1 - CALL_SHARE)
