from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from app.cloud.quota import QuotaExhausted, QuotaUnreachable
from app.model.calls import CallRank
from app.service.permit_queue import CALL_SHARE, MAX_BATCH_S, MIN_BATCH_S, VALID_S, PermitQueue, Waiter
from app.store.quota import PermitGrant, PermitQuestion

FAR = 1000.0
"""A deadline that no test here comes to."""


def nothing() -> None:
    """Decisions are read from the waiter."""


def grant(permits: int, *, again_in_s: float = 0.0, others: tuple[int, ...] = (), pace: float = 10.0) -> PermitGrant:
    """Return an answer of the shared quota; the egress group never matters here."""
    return PermitGrant(permits, 0, again_in_s, others, (), pace, 1000.0, pace, 1, 0.0, is_probe=False)


def asked(waiting: int, least: int, batch_s: float) -> PermitQuestion:
    """Return a question of this queue."""
    return PermitQuestion(waiting, waiting, least, batch_s, VALID_S, CallRank.FIRST)


@pytest.fixture
def queue() -> PermitQueue:
    """An empty queue."""
    return PermitQueue("ApplyToken")


@pytest.fixture
def join(queue: PermitQueue) -> Callable[..., Waiter]:
    """A function that lets a caller join at time 0."""

    def enter(count: int = 1, *, deadline: float = FAR, now: float = 0.0) -> Waiter:
        return queue.join(count, deadline=deadline, now=now, on_decided=nothing)

    return enter


def served(queue: PermitQueue, *waiters: Waiter, now: float = 0.0) -> list[bool]:
    """Return which of the waiters may call now."""
    return [queue.is_served(each, now) for each in waiters]


def give(queue: PermitQueue, permits: int, *, now: float = 0.0, **more: object) -> PermitQuestion:
    """Ask and answer at one moment; returns what was asked for."""
    question = queue.question(now)
    queue.answered(grant(permits, **more), now)  # type: ignore[arg-type]
    return question


def test_first_come_is_first_served(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """A waiter for two permits is not overtaken by one behind it that needs a single one."""
    one, two, last = join(1), join(2), join(1)
    assert give(queue, 2) == asked(4, 1, MIN_BATCH_S)
    assert served(queue, one, two, last) == [True, False, False]
    assert give(queue, 1).least == 1  # one of its two is there
    assert served(queue, two, last) == [True, False]
    assert queue.waiting == 1


def test_what_is_left_over_serves_the_next_without_a_question(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """Permits that are left over go to the next caller while they are valid, and not later."""
    join()
    give(queue, 3)
    assert served(queue, join(now=VALID_S / 2), now=VALID_S / 2) == [True]
    late = join(now=VALID_S)
    assert served(queue, late, now=VALID_S) == [False]
    assert queue.question(VALID_S).waiting == 1


def test_a_waiter_that_left_leaves_nothing_behind(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """Those behind it move up, and no permit is asked for in its name."""
    gone = [join(2) for _ in range(5)]
    last = join()
    for each in gone:
        queue.leave(each, 0.0)
    assert give(queue, 1) == asked(1, 1, MIN_BATCH_S)
    assert served(queue, last) == [True]
    assert queue.waiting == 0


def test_permits_of_one_that_left_go_to_the_next(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """A waiter cancelled between the grant and its call has used nothing: the next gets the permit, valid as long."""
    cancelled = join()
    give(queue, 1)
    behind = join(now=0.05)
    queue.leave(cancelled, 0.05)
    assert served(queue, behind, now=VALID_S - 0.01) == [True]
    again = join(now=0.06)
    assert served(queue, again, now=0.06) == [False]


def test_a_served_waiter_gives_nothing_back(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """Leaving after the call was made does not make a second permit of the first."""
    first = join()
    give(queue, 1)
    assert served(queue, first) == [True]
    queue.leave(first, 0.0)
    assert served(queue, join()) == [False]


def test_a_waiter_that_leaves_while_all_are_refused_is_not_counted_twice(
    queue: PermitQueue, join: Callable[..., Waiter]
) -> None:
    """Whether it left before or after, an empty queue waits for nothing."""
    before, after = join(), join()
    queue.leave(before, 0.0)
    queue.refuse_all("gone")
    queue.leave(after, 0.0)
    assert queue.waiting == 0
    with pytest.raises(QuotaUnreachable, match="gone"):
        queue.is_served(after, 0.0)


def test_void_permits_are_not_used(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """A waiter that was paused over its permit goes back to the head, and the instance then asks for little."""
    paused, behind = join(), join()
    give(queue, 1)
    assert served(queue, paused, now=VALID_S) == [False]
    assert queue.question(VALID_S) == asked(2, 1, 0)
    queue.answered(grant(1), VALID_S)
    assert served(queue, paused, behind, now=VALID_S) == [True, False]


def test_an_answer_that_comes_late_is_void(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """Permits are valid from when they were asked for: the shared quota counted them then at the latest."""
    waiter = join()
    queue.question(0.0)
    queue.answered(grant(1), VALID_S)
    assert served(queue, waiter, now=VALID_S) == [False]


def test_a_batch_follows_the_time_between_questions(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """As many permits as the pace brings meanwhile, within bounds; after a time without waiters it starts small."""
    join(100)
    batches = [give(queue, 0, now=now).batch_s for now in (5.0, 5.001, 5.021, 6.0)]
    assert batches == pytest.approx([MIN_BATCH_S, MIN_BATCH_S, 0.02, MAX_BATCH_S])
    queue.forget_others()
    assert queue.question(6.03).batch_s == MIN_BATCH_S


def test_a_caller_whose_turn_comes_too_late_is_refused_at_once(queue: PermitQueue, join: Callable[..., Waiter]) -> None:
    """The refusal says when all that wait now, at any instance, will be served; ``refusal`` says it beforehand."""
    assert queue.refusal(1, deadline=0.5, now=0.0) is None  # nothing is known yet
    join(10)
    give(queue, 0, again_in_s=0.1, others=(20,), pace=10.0)
    assert queue.refusal(1, deadline=FAR, now=0.0) is None
    known = queue.refusal(1, deadline=0.5, now=0.0)
    with pytest.raises(QuotaExhausted) as refusal:
        join(deadline=0.5)
    assert known is not None
    assert known.retry_after_s == refusal.value.retry_after_s == pytest.approx(0.1 + (10 + 20) / 10)
    assert queue.waiting == 10


def test_the_first_answer_refuses_those_that_joined_in_ignorance(
    queue: PermitQueue, join: Callable[..., Waiter]
) -> None:
    """Nothing was known of others' queues when they joined; those with time enough keep their places."""
    patient, hasty, last = join(), join(deadline=0.2), join(deadline=0.9)
    give(queue, 0, again_in_s=0.1, others=(2,), pace=10.0)
    assert served(queue, patient, last) == [False, False]
    with pytest.raises(QuotaExhausted) as refusal:
        queue.is_served(hasty, 0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.1 + (3 + 2) / 10)
    assert queue.waiting == 2


def test_some_of_the_time_is_left_for_the_call(join: Callable[..., Waiter]) -> None:
    """A waiter stops waiting before its deadline."""
    assert join(deadline=8.0).until == pytest.approx(8.0 * (1 - CALL_SHARE))


def test_each_decision_is_reported_once(queue: PermitQueue) -> None:
    """``on_decided`` is called at a grant and at a refusal; a waiter that left hears of neither."""
    decided: list[str] = []
    for name in ("gone", "granted", "refused"):
        waiter = queue.join(1, deadline=FAR, now=0.0, on_decided=partial(decided.append, name))
        if name == "gone":
            queue.leave(waiter, 0.0)
    give(queue, 1)
    queue.refuse_all("gone")
    assert decided == ["granted", "refused"]
