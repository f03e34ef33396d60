"""The queue of one instance for the calls of one API: who has a place, who gets permits, what to ask for next.

A caller waits for a place among the calls under way, connects, and then waits for its permits. Places are bounded, so
that a cloud that does not answer holds up no more than that many calls; the places of callers without permits are
fewer still at each rank, so that the order holds and few connections wait.

There is no I/O here. Every ``now``, ``deadline`` and ``until`` is loop time in seconds, and ``app.service.pacing``
passes it in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from app.cloud.quota import CallPermit, CloudClosed, QuotaExhausted, QuotaRefusal, QuotaUnreachable
from app.model.calls import CallRank
from app.service.permit_stock import NO_PERMIT, PermitStock, PermitValidity
from app.service.permit_waiters import Waiter, Waiters, WaiterState
from app.service.place_limits import PlaceLimits
from app.store.quota import PermitGrant, PermitQuestion

MIN_BATCH_S: Final = 0.01
MAX_BATCH_S: Final = 0.05
"""A batch is what the pace brings from one question to the next, within these bounds: small, so that an instance
that is held up holds few permits with it, but enough where Redis takes long to answer."""

HEARTBEAT_S: Final = 0.25
"""A queue is reported to the other instances at least this often; one that is not reported is forgotten after 1 s."""

CALL_SHARE: Final = 1 / 8
"""The share of the caller's time that is kept for the call itself."""

RECONNECT_S: Final = 2.0
"""While the cloud does not answer: how long after one caller could not connect the next one tries."""

PROBES: Final = frozenset({"ApplyToken", "RevokeToken"})
"""The actions whose calls may probe the cloud: those that are repeated where their outcome is unknown."""

PROBE_DELAY_S: Final = 2 * HEARTBEAT_S
"""How long after a probe is due its caller is asked to connect and then gets its permit, at most, as a rule."""

MAX_CONNECT_S: Final = 1.0
"""How much of a caller's time is kept for connecting, at most: else none could probe a cloud that connects slowly."""

LEAST_CLOSED_S: Final = 1.0
"""While the cloud does not answer: for how long callers are sent away at least."""


class PermitQueue:
    """The callers of one API, their places, and the permits that were granted and not used yet."""

    def __init__(
        self, action: str, *, attempt_timeout_s: float, on_probe_unsent: Callable[[], None] = lambda: None
    ) -> None:
        """``attempt_timeout_s`` is how long a call may take that was sent, in seconds.

        ``on_probe_unsent`` is called when permits to probe the cloud were not used.
        """
        self._action = action
        self._waiters = Waiters()
        self._limits = PlaceLimits(attempt_timeout_s)
        self._attempt_timeout_s = attempt_timeout_s
        self._places = 0
        self._stock = PermitStock(on_probe_unsent)
        self._validity = PermitValidity()
        self._asked_at = 0.0
        self._void_at = 0.0
        self._was_in_time = True
        """Whether the last permits came, and were used, before they were void."""
        self._last: PermitGrant | None = None
        """The last answer since this queue was last empty."""
        self._answered_at = -math.inf
        """When the last answer came: only a report that was answered later may say something else."""
        self._reconnect_at = -math.inf
        """While the cloud does not answer: when to connect again at the soonest, as one caller could not."""
        self._closed_until: float | None = None
        """None, or the cloud does not answer, and is not called before then."""

    @property
    def waiting(self) -> int:
        """How many permits are waited for."""
        return self._waiters.unserved_calls()

    @property
    def has_ready(self) -> bool:
        """Whether permits would be used at once."""
        return self._waiters.calls(WaiterState.READY) > 0

    def has_left_over(self, now: float) -> bool:
        """Return whether permits are left that are too few for the first caller."""
        return self.has_ready and self._stock.count(now) > 0

    def join(
        self, count: int, *, rank: CallRank, deadline: float, now: float, on_changed: Callable[[], None]
    ) -> Waiter:
        """Add a caller, which has its place at once where there is one free.

        Raises ``QuotaExhausted`` if its turn would come too late, as far as is known, and ``CloudClosed``.
        """
        if refusal := self.refusal(count, rank=rank, deadline=deadline, now=now):
            raise refusal
        waiter = Waiter(count, rank, _latest(now, deadline), deadline, on_changed)
        self._waiters.add(waiter)
        self._give_places(now)
        return waiter

    def refusal(
        self, count: int, *, rank: CallRank, deadline: float, now: float
    ) -> QuotaExhausted | CloudClosed | None:
        """Return why ``count`` more calls would come too late, if that is known."""
        if self._closed_until is not None:
            can_probe = self._waiters.unserved_calls() == 0 and self._can_probe(deadline, now)
            return None if can_probe else self._closed(now)
        until = _latest(now, deadline)
        place = self._waiters.unserved_calls(up_to=rank) + count
        is_late = self._last and now + self._last.wait_s(place) > until
        return self._exhausted() if is_late else None

    def late_refusal(self, now: float) -> QuotaExhausted | CloudClosed:
        """Return the refusal of a caller whose time to wait is over."""
        return self._exhausted() if self._closed_until is None else self._closed(now)

    def has_place(self, waiter: Waiter) -> bool:
        """Return whether a caller has its place. Raises its refusal."""
        if waiter.refusal:
            raise waiter.refusal
        return waiter.has_place

    def connected(self, waiter: Waiter, now: float) -> None:
        """Let a caller that has a place wait for its permits. If it has taken some already, it did not use them."""
        if waiter.state is WaiterState.PREPARING:
            self._limits.note_connected(now - waiter.prepares_since)
        elif waiter.state is WaiterState.UNDER_WAY:
            self._give_back(waiter, now)
        else:
            return
        self._waiters.move(waiter, WaiterState.READY)
        self._hand_out(now)

    def disconnected(self, waiter: Waiter, now: float) -> None:
        """Let a caller that waits for its permits connect once more; it keeps its turn."""
        if waiter.state is WaiterState.GRANTED:
            self._give_back(waiter, now)
        elif waiter.state is not WaiterState.READY:
            return
        waiter.prepares_since = now
        self._waiters.move(waiter, WaiterState.PREPARING)
        self._hand_out(now)
        waiter.on_changed()

    def give_back(self, waiter: Waiter, now: float) -> None:
        """Take permits back that a caller has taken and did not use. It connects once more, and keeps its turn."""
        if waiter.state is WaiterState.UNDER_WAY:
            self._give_back(waiter, now)
            waiter.prepares_since = now
            self._waiters.move(waiter, WaiterState.PREPARING)
            self._hand_out(now)

    def take(self, waiter: Waiter, now: float) -> CallPermit | None:
        """Return the permits of a caller: None if it must wait, a void one if it must connect. Raises its refusal.

        Permits that became void meanwhile, as this process was paused, leave it to wait with its turn.
        """
        if waiter.refusal:
            raise waiter.refusal
        if waiter.state is WaiterState.PREPARING:
            return NO_PERMIT
        if waiter.state is WaiterState.GRANTED:
            self._waiters.move(waiter, WaiterState.UNDER_WAY)
            if now < waiter.permit.void_at:
                return waiter.permit
            self.connected(waiter, now)
        return None

    def leave(self, waiter: Waiter, now: float, *, could_connect: bool = True) -> None:
        """Let a caller go, served or not. Permits that it was granted and did not take go to the next."""
        if waiter.state is WaiterState.GRANTED:
            self._give_back(waiter, now)
        if self._closed_until is not None and not could_connect:
            self._reconnect_at = now + RECONNECT_S
            self._closed_until = max(self._closed_until, self._reconnect_at)
        if waiter.has_place:
            waiter.has_place = False
            self._places -= waiter.count
        self._waiters.move(waiter, WaiterState.GONE)
        self._hand_out(now)
        if not self.waiting:
            self._stock.drop_probe()

    def question(self, now: float) -> PermitQuestion:
        """Return what to ask for now: permits for the best rank that is ready, at least enough for its first."""
        self._give_places(now)
        stock, valid_s = self._stock.count(now), self._validity.valid_s
        since_last_s = now - self._asked_at if self._last else 0
        self._asked_at, self._void_at = now, now + valid_s
        waiting = max(0, self.waiting - stock)
        first = self._waiters.first(WaiterState.READY)
        if first is None:
            return PermitQuestion(waiting, ready=0, least=1, batch_s=0, valid_s=valid_s, rank=CallRank.RENEWAL)
        least = max(1, first.count - stock)
        ready = max(least, self._waiters.calls(WaiterState.READY, rank=first.rank) - stock)
        # An instance that was too late to use its last permits takes few: the others lose them.
        batch_s = min(MAX_BATCH_S, max(MIN_BATCH_S, since_last_s)) if self._was_in_time else 0
        return PermitQuestion(max(waiting, ready), ready, least, batch_s, valid_s, first.rank)

    def answered(self, grant: PermitGrant, now: float) -> None:
        """Hand out what was granted; refuse those that will be too late, where the answer shows that first."""
        self._validity.note(now - self._asked_at)
        self._was_in_time = now < self._void_at
        is_slower = self._last is None or _pace(grant) < _pace(self._last)
        self._last, self._answered_at = grant, now
        self._limits.adapt(grant)
        if grant.permits:
            self._stock.add(grant.permits, CallPermit(self._void_at, grant.taken_at_us, grant.is_probe), now)
        self._hand_out(now)
        if grant.closed_for_s > 0:
            self._close(now + grant.closed_for_s, now)
            return
        self._closed_until = None
        self._give_places(now)
        if is_slower:
            self._refuse_late(grant, now)

    def note_report(self, closed_for_s: float, *, reported_at: float, now: float) -> None:
        """Note for how long the cloud is left alone, as the last report of the calls was answered at ``reported_at``.

        0: calls are not stopped. It counts where this queue does not ask, unless its last answer is newer.
        """
        if self._last or reported_at <= self._answered_at:
            return
        if closed_for_s > 0:
            self._close(max(now + closed_for_s, self._reconnect_at), now)
        else:
            self._closed_until = None
            self._give_places(now)

    def forget_others(self) -> None:
        """Forget what was known of other instances' queues: it is true only while this one asks.

        Whether the cloud answers stays known until a report says something newer.
        """
        self._last = None

    def refuse_all(self, cause: str) -> None:
        """Refuse all that wait: permits cannot be asked for."""
        for waiter in self._waiters.unserved():
            self._refuse(waiter, QuotaUnreachable(cause))

    def _close(self, until: float, now: float) -> None:
        """Keep one caller, for the probe, and refuse the others."""
        self._closed_until = until
        has_candidate = False
        for waiter in self._waiters.unserved():
            if has_candidate or not self._can_probe(waiter.deadline, now):
                self._refuse(waiter, self._closed(now))
            else:
                has_candidate = True

    def _can_probe(self, deadline: float, now: float) -> bool:
        """Return whether a call waits long enough for its answer, if it is sent when the next probe is due.

        A call that its caller gives up sooner does not show whether the cloud answers within the time-out.
        """
        due_at = max(now, self._closed_until or now)
        takes_s = PROBE_DELAY_S + min(MAX_CONNECT_S, self._limits.connect_s) + self._attempt_timeout_s
        return self._action in PROBES and due_at + takes_s <= deadline

    def _give_places(self, now: float) -> None:
        while (first := self._waiters.first(WaiterState.WAITING)) and self._has_place_for(first, now):
            first.has_place, first.prepares_since = True, now
            self._places += first.count
            self._waiters.move(first, WaiterState.PREPARING)
            first.on_changed()

    def _has_place_for(self, waiter: Waiter, now: float) -> bool:
        if self._closed_until is not None and now < self._closed_until:
            return False
        # Those of a worse rank that have no permit do not count: while better callers wait at other instances they get
        # none, and would keep all places. So there may be more calls in all, by as many as may wait without a permit.
        without_permit = self._waiters.calls_up_to(waiter.rank, WaiterState.PREPARING, WaiterState.READY)
        worse = self._waiters.calls(WaiterState.PREPARING, WaiterState.READY) - without_permit
        places = self._places - worse
        has_room = places + waiter.count <= self._limits.places
        return places == 0 or (has_room and without_permit + waiter.count <= self._limits.without_permit)

    def _hand_out(self, now: float) -> None:
        while (first := self._waiters.first(WaiterState.READY)) and first.count <= self._stock.count(now):
            first.permit = self._stock.take(first.count)
            self._waiters.move(first, WaiterState.GRANTED)
            first.on_changed()
        self._give_places(now)

    def _give_back(self, waiter: Waiter, now: float) -> None:
        """Take permits back that were not used: void ones show that it takes long until they can be."""
        late_s = now - waiter.permit.void_at
        if late_s >= 0:
            self._was_in_time = False
            self._validity.note(self._validity.valid_s + late_s)
        self._stock.add(waiter.count, waiter.permit, now)

    def _refuse_late(self, grant: PermitGrant, now: float) -> None:
        place = 0
        for waiter in self._waiters.unserved():
            place += waiter.count
            if now + grant.wait_s(place) > waiter.until:
                self._refuse(waiter, self._exhausted())
                place -= waiter.count

    def _refuse(self, waiter: Waiter, refusal: QuotaRefusal) -> None:
        waiter.refusal = refusal
        self._waiters.move(waiter, WaiterState.REFUSED)
        waiter.on_changed()

    def _exhausted(self) -> QuotaExhausted:
        return QuotaExhausted(self._action, self._last.backlog_s(self.waiting) if self._last else HEARTBEAT_S)

    def _closed(self, now: float) -> CloudClosed:
        left_s = 0.0 if self._closed_until is None else self._closed_until - now
        return CloudClosed(max(LEAST_CLOSED_S, left_s))


def _latest(now: float, deadline: float) -> float:
    """Return until when to wait: some of the time is for the call itself."""
    return now + (deadline - now) * (1 - CALL_SHARE)


def _pace(grant: PermitGrant) -> float:
    """Return how many permits a second there are at most."""
    return min(grant.pace, grant.group_pace)
