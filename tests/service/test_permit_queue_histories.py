"""Random histories of the queue for permits, in virtual time, and what must hold at every moment of them."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.cloud.quota import QuotaRefusal
from app.model.calls import CallRank
from app.service.permit_queue import PermitQueue
from app.service.permit_waiters import Waiter, WaiterState
from app.store.quota import PermitQuestion
from tests.service.grants import grant

PACE = 20.0
UNSERVED = (WaiterState.WAITING, WaiterState.PREPARING, WaiterState.READY)

pick = st.integers(0, 10_000)
seldom = st.integers(0, 19).map(lambda number: number == 0)


def turn(waiter: Waiter) -> tuple[CallRank, int]:
    """Return what the order goes by."""
    return waiter.rank, waiter.number


class QueueHistory(RuleBasedStateMachine):
    """Callers come, connect, call and leave, in any order; answers are late, empty, or say that the cloud is away."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = PermitQueue("ApplyToken", attempt_timeout_s=0.6)
        self.waiters: list[Waiter] = []
        self.question: PermitQuestion | None = None
        self.given = 0
        self.used = 0
        self.widest = (0, 0)
        """The widest limits so far: of places, and of those without a permit."""
        self.returned = 0
        """Calls that came back to wait as they did not use their permits; they keep their places."""

    def those(self, *states: WaiterState) -> list[Waiter]:
        """Return the callers in these states, in the order in which they are to be served."""
        return sorted((each for each in self.waiters if each.state in states), key=turn)

    def judge_order(self, before: list[Waiter]) -> None:
        """Check that those that got their permits in this step go before all that did not."""
        granted = [each for each in before if each.state is WaiterState.GRANTED]
        waiting = [each for each in before if each.state is WaiterState.READY]
        assert all(turn(one) < turn(other) for one in granted for other in waiting)

    @rule(
        count=st.integers(1, 2),
        ranks=st.lists(st.sampled_from(CallRank), min_size=1, max_size=12),
        patience_s=st.sampled_from([0.2, 5.0, 60.0, 60.0]),
        connects=st.booleans(),
    )
    def join(self, count: int, ranks: list[CallRank], patience_s: float, *, connects: bool) -> None:
        """Callers come."""
        for rank in ranks:
            before = self.those(WaiterState.WAITING)
            deadline = self.now + patience_s
            try:
                waiter = self.queue.join(count, rank=rank, deadline=deadline, now=self.now, on_changed=lambda: None)
            except QuotaRefusal:
                continue
            self.waiters.append(waiter)
            if waiter.has_place:
                assert all(turn(waiter) < turn(each) for each in before)
                if connects:
                    self.queue.connected(waiter, self.now)

    @precondition(lambda self: self.those(WaiterState.PREPARING))
    @rule(which=pick)
    def connect(self, which: int) -> None:
        """A caller has its connection."""
        preparing = self.those(WaiterState.PREPARING)
        waiter = preparing[which % len(preparing)]
        before = [*self.those(WaiterState.READY), waiter]
        self.queue.connected(waiter, self.now)
        self.judge_order(before)

    @precondition(lambda self: self.those(WaiterState.READY, WaiterState.GRANTED))
    @rule(which=pick)
    def lose_connection(self, which: int) -> None:
        """The cloud closes a connection that waits."""
        waiting = self.those(WaiterState.READY, WaiterState.GRANTED)
        waiter = waiting[which % len(waiting)]
        self.returned += waiter.count if waiter.state is WaiterState.GRANTED else 0
        self.queue.disconnected(waiter, self.now)

    @precondition(lambda self: self.those(WaiterState.GRANTED))
    @rule(which=pick)
    def take(self, which: int) -> None:
        """A caller takes its permits, and calls."""
        granted = self.those(WaiterState.GRANTED)
        waiter = granted[which % len(granted)]
        void_at = waiter.permit.void_at
        if self.queue.take(waiter, self.now):
            assert self.now < void_at
            self.used += waiter.count
        else:
            assert self.now >= void_at
            self.returned += waiter.count

    @precondition(lambda self: self.those(WaiterState.UNDER_WAY))
    @rule(which=pick)
    def come_back(self, which: int) -> None:
        """A caller did not use its permits."""
        under_way = self.those(WaiterState.UNDER_WAY)
        waiter = under_way[which % len(under_way)]
        self.used -= waiter.count
        self.returned += waiter.count
        self.queue.connected(waiter, self.now)

    @precondition(lambda self: self.waiters)
    @rule(which=pick, could_connect=st.booleans())
    def leave(self, which: int, *, could_connect: bool) -> None:
        """A caller goes: its call is over, it is cancelled, refused, or its time is up."""
        waiter = self.waiters.pop(which % len(self.waiters))
        before = self.those(WaiterState.READY)
        self.queue.leave(waiter, self.now, could_connect=could_connect)
        self.judge_order(before)

    @rule()
    def ask(self) -> None:
        """The shared quota is asked."""
        self.question = question = self.queue.question(self.now)
        assert question.least >= 1
        assert question.ready == 0 or question.least <= question.ready <= question.waiting
        assert 0 < question.valid_s <= 0.2
        ready = self.those(WaiterState.READY)
        assert question.rank is ready[0].rank if ready else question.ready == 0

    @precondition(lambda self: self.question)
    @rule(
        share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
        pace=st.sampled_from([0.2, 20.0, 50.0]),
        instances=st.integers(1, 4),
        is_closed=seldom,
    )
    def answer(self, share: float, pace: float, instances: int, *, is_closed: bool) -> None:
        """Its answer comes, however late."""
        assert self.question
        question, self.question = self.question, None
        before = self.those(WaiterState.READY)
        permits = round(share * question.ready)
        permits = permits if permits >= question.least else 0
        self.given += permits
        others: dict[str, Any] = {"closed_for_s": 2.0 if is_closed else 0.0, "is_probe": is_closed}
        self.queue.answered(grant(permits, pace=pace, full_pace=PACE, instances=instances, **others), self.now)
        self.judge_order(before)
        assert not is_closed or len(self.those(*UNSERVED)) <= 1

    @rule(share=st.sampled_from([0.3, 1.0]))
    def ask_and_answer(self, share: float) -> None:
        """The shared quota answers at once."""
        self.ask()
        self.answer(share, 50.0, 1, is_closed=False)

    @rule(happens=seldom)
    def lose_redis(self, *, happens: bool) -> None:
        """Permits cannot be asked for."""
        if happens:
            self.question = None
            self.queue.refuse_all("away")
            self.queue.forget_others()
            assert not self.those(*UNSERVED)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.021, 0.021, 3.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes; those whose time is up leave."""
        self.now += seconds
        for waiter in [each for each in self.those(*UNSERVED) if each.until <= self.now]:
            assert self.queue.late_refusal(self.now).retry_after_s >= 0
            self.waiters.remove(waiter)
            self.queue.leave(waiter, self.now)

    @invariant()
    def counts_are_right(self) -> None:
        """What the queue counts is what there is: no caller is lost, and none counted twice."""
        for state in WaiterState:
            for rank in CallRank:
                there = sum(each.count for each in self.those(state) if each.rank is rank)
                assert state is WaiterState.GONE or self.queue._waiters.calls(state, rank=rank) == there
        assert self.queue.waiting == sum(each.count for each in self.those(*UNSERVED))
        assert self.queue._waiters.unserved() == self.those(*UNSERVED)
        assert self.queue._places == sum(each.count for each in self.waiters if each.has_place)
        assert self.queue._stock._count >= 0

    @invariant()
    def places_are_bounded(self) -> None:
        """No more calls are under way, and no more without a permit, than the limits have ever allowed."""
        limits = self.queue._limits
        self.widest = max(self.widest[0], limits.places), max(self.widest[1], limits.without_permit)
        # Those without a permit count only for their own rank and for worse ones.
        assert self.queue._places <= self.widest[0] + (len(CallRank) - 1) * self.widest[1] + self.returned
        without = self.those(WaiterState.PREPARING, WaiterState.READY)
        for rank in CallRank:
            assert sum(each.count for each in without if each.rank is rank) <= self.widest[1] + self.returned

    @invariant()
    def no_permit_is_used_twice(self) -> None:
        """Never more calls are made than permits were given."""
        assert self.used + sum(each.count for each in self.those(WaiterState.GRANTED)) <= self.given

    def teardown(self) -> None:
        """Whatever happened: with permits all that wait are served, and then nothing is left."""
        for waiter in self.those(WaiterState.REFUSED, WaiterState.GRANTED, WaiterState.UNDER_WAY):
            self.waiters.remove(waiter)
            self.queue.leave(waiter, self.now)
        for _ in range(3 * len(self.waiters) + 3):
            self.serve_all()
        assert not self.waiters
        assert (self.queue.waiting, self.queue._places, self.queue.has_ready) == (0, 0, False)

    def serve_all(self) -> None:
        """Connect all that have a place, give permits, and let those that got them call."""
        for waiter in self.those(WaiterState.PREPARING):
            self.queue.connected(waiter, self.now)
        question = self.queue.question(self.now)
        self.queue.answered(grant(question.ready, pace=1e6), self.now)
        for waiter in self.those(WaiterState.REFUSED, WaiterState.GRANTED):
            assert waiter.refusal or self.queue.take(waiter, self.now)
            self.waiters.remove(waiter)
            self.queue.leave(waiter, self.now)


QueueHistory.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
test_histories = QueueHistory.TestCase
