from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from app.cloud.quota import CloudClosed, QuotaExhausted, QuotaUnreachable
from app.model.calls import CallRank
from app.service.permit_queue import (
    CALL_SHARE,
    LEAST_CLOSED_S,
    MAX_BATCH_S,
    MIN_BATCH_S,
    PROBE_DELAY_S,
    RECONNECT_S,
    PermitQueue,
)
from app.service.permit_stock import NO_PERMIT
from app.service.permit_waiters import Waiter, WaiterState
from app.service.place_limits import LEAST, LEAST_OF_ALL, LEAST_WITHOUT_PERMIT
from app.store.quota import VALID_S, PermitQuestion
from tests.service.grants import grant

FAR = 1000.0
"""A deadline that no test here comes to."""

OPERATOR, FIRST, RENEWAL = CallRank

Join = Callable[..., Waiter]


def nothing() -> None:
    """Decisions are read from the waiter."""


@pytest.fixture
def queue() -> PermitQueue:
    """An empty queue."""
    return PermitQueue("ApplyToken", attempt_timeout_s=3.0)


@pytest.fixture
def join(queue: PermitQueue) -> Join:
    """A function that lets a caller join at time 0 and connect at once if it has its place."""

    def enter(
        count: int = 1, *, rank: CallRank = FIRST, deadline: float = FAR, now: float = 0.0, connects: bool = True
    ) -> Waiter:
        waiter = queue.join(count, rank=rank, deadline=deadline, now=now, on_changed=nothing)
        if connects:
            queue.connected(waiter, now)
        return waiter

    return enter


def taken(queue: PermitQueue, *waiters: Waiter, now: float = 0.0) -> list[bool]:
    """Return which of the waiters may call now; they then call."""
    return [queue.take(each, now) is not None for each in waiters]


def give(queue: PermitQueue, permits: int, *, now: float = 0.0, **more: object) -> PermitQuestion:
    """Ask and answer at one moment; returns what was asked for."""
    question = queue.question(now)
    queue.answered(grant(permits, **more), now)  # type: ignore[arg-type]
    return question


def states(*waiters: Waiter) -> list[str]:
    """Return the names of states."""
    return [each.state.name for each in waiters]


def test_first_come_is_first_served(queue: PermitQueue, join: Join) -> None:
    """A waiter for two permits is not overtaken by one behind it that needs a single one."""
    one, two, last = join(1), join(2), join(1)
    assert give(queue, 2) == PermitQuestion(4, ready=4, least=1, batch_s=MIN_BATCH_S, valid_s=VALID_S, rank=FIRST)
    assert taken(queue, one, two, last) == [True, False, False]
    assert give(queue, 1).least == 1  # one of its two is there
    assert taken(queue, two, last) == [True, False]
    assert queue.waiting == 1


def test_the_better_rank_goes_first(queue: PermitQueue, join: Join) -> None:
    """An operator before a device without a token, before a renewal, whoever came first."""
    renewal, first, operator = join(rank=RENEWAL), join(rank=FIRST), join(rank=OPERATOR)
    for served in (operator, first, renewal):
        assert give(queue, 1).rank is served.rank
        assert taken(queue, served) == [True]


def test_permits_are_asked_for_one_rank_at_a_time(queue: PermitQueue, join: Join) -> None:
    """Other instances leave to it what its best rank wants, and no more in the name of that rank."""
    for rank in (RENEWAL, RENEWAL, FIRST):
        join(rank=rank)
    question = queue.question(0.0)
    assert (question.waiting, question.ready, question.least, question.rank) == (3, 1, 1, FIRST)


def test_permits_are_only_asked_for_callers_that_are_connected(queue: PermitQueue, join: Join) -> None:
    """Those that connect still are reported, and take nothing; one that is connected passes them."""
    slow = join(connects=False)
    question = queue.question(0.0)
    assert (question.waiting, question.ready, question.least) == (1, 0, 1)
    quick = join()
    assert give(queue, 1).ready == 1
    assert taken(queue, quick) == [True]
    queue.connected(slow, 0.0)
    give(queue, 1)
    assert taken(queue, slow) == [True]


def test_places_without_a_permit_are_few(queue: PermitQueue, join: Join) -> None:
    """The others wait without a connection, and get their places in turn."""
    renewals = [join(rank=RENEWAL) for _ in range(LEAST_WITHOUT_PERMIT + 2)]
    assert states(*renewals[-3:]) == ["READY", "WAITING", "WAITING"]
    give(queue, 1)
    assert states(renewals[0], *renewals[-2:]) == ["GRANTED", "PREPARING", "WAITING"]


def test_a_worse_rank_that_waits_for_permits_takes_no_place_from_a_better_one(queue: PermitQueue, join: Join) -> None:
    """Other instances' better callers go before it for as long as there are any, and it would keep its place."""
    few = {"full_pace": 0.1, "instances": 1000}
    renewals = [join(rank=RENEWAL) for _ in range(LEAST_WITHOUT_PERMIT)]
    give(queue, 0, **few)
    firsts = [join() for _ in range(LEAST + 1)]
    assert states(*renewals, *firsts) == ["READY"] * LEAST_WITHOUT_PERMIT + ["READY"] * LEAST + ["WAITING"]
    pair = join(2, rank=OPERATOR)
    give(queue, 2, **few)
    assert taken(queue, pair, firsts[0]) == [True, False]
    # Those that have their permits count for all.
    assert states(join(rank=OPERATOR)) == ["WAITING"]


def test_calls_under_way_are_bounded(queue: PermitQueue, join: Join) -> None:
    """Whatever the cloud does: the next gets its place when one of them is over."""
    under_way = []
    for _ in range(LEAST_OF_ALL):
        under_way.append(join())
        give(queue, 1, full_pace=1.0)
        assert taken(queue, under_way[-1]) == [True]
    last = join()
    assert states(last) == ["WAITING"]
    queue.leave(under_way[0], 0.0)
    assert states(last) == ["PREPARING"]


def test_a_pair_gets_its_places_however_few_there_are(queue: PermitQueue, join: Join) -> None:
    """It waits until both are free, and is not passed by single calls; one that is too large for all goes alone."""
    pace = {"full_pace": 0.1, "instances": 1000}
    give(queue, 0, **pace)
    single = join()
    pair, behind = join(2), join()
    assert states(single, pair, behind) == ["READY", "WAITING", "WAITING"]
    give(queue, 1, **pace)
    taken(queue, single)
    assert states(pair) == ["WAITING"]
    queue.leave(single, 0.0)
    assert states(pair, behind) == ["PREPARING", "WAITING"]
    queue.leave(pair, 0.0)
    queue.leave(behind, 0.0)
    assert states(join(5, connects=False)) == ["PREPARING"]


def test_what_is_left_over_serves_the_next_without_a_question(queue: PermitQueue, join: Join) -> None:
    """Permits of callers that left go to the next while they are valid, and not later."""
    gone = [join() for _ in range(3)]
    give(queue, 3)
    for each in gone:
        queue.leave(each, 0.0)
    assert taken(queue, join(now=VALID_S / 2), now=VALID_S / 2) == [True]
    late = join(now=VALID_S)
    assert taken(queue, late, now=VALID_S) == [False]
    assert queue.question(VALID_S).waiting == 1


def test_a_waiter_that_left_leaves_nothing_behind(queue: PermitQueue, join: Join) -> None:
    """Those behind it move up, and no permit is asked for in its name."""
    gone = [join(2) for _ in range(5)]
    last = join()
    for each in gone:
        queue.leave(each, 0.0)
    queue.connected(last, 0.0)
    assert give(queue, 1).waiting == 1
    assert taken(queue, last) == [True]
    assert queue.waiting == 0


def test_a_served_waiter_gives_nothing_back(queue: PermitQueue, join: Join) -> None:
    """Leaving after the call was made does not make a second permit of the first."""
    first = join()
    give(queue, 1)
    assert taken(queue, first) == [True]
    queue.leave(first, 0.0)
    assert taken(queue, join()) == [False]


def test_a_waiter_that_leaves_while_all_are_refused_is_not_counted_twice(queue: PermitQueue, join: Join) -> None:
    """Whether it left before or after, an empty queue waits for nothing."""
    before, after, waiting = join(), join(), [join(connects=False) for _ in range(LEAST_WITHOUT_PERMIT)]
    queue.leave(before, 0.0)
    queue.refuse_all("gone")
    assert queue.waiting == 0
    for refused in (after, *waiting):
        with pytest.raises(QuotaUnreachable, match="gone"):
            queue.take(refused, 0.0)
        with pytest.raises(QuotaUnreachable, match="gone"):
            queue.has_place(refused)
        queue.leave(refused, 0.0)
    assert queue.waiting == 0
    assert [join().state for _ in range(LEAST_WITHOUT_PERMIT)] == [WaiterState.READY] * LEAST_WITHOUT_PERMIT


def test_void_permits_are_not_used(queue: PermitQueue, join: Join) -> None:
    """A waiter that was paused over its permit goes back to the head, and the instance then asks for little."""
    paused, behind = join(), join()
    give(queue, 1)
    assert taken(queue, paused, now=VALID_S) == [False]
    question = queue.question(VALID_S)
    assert (question.waiting, question.ready, question.batch_s) == (2, 2, 0)
    queue.answered(grant(1), VALID_S)
    assert taken(queue, paused, behind, now=VALID_S) == [True, False]


def test_a_permit_that_was_not_used_is_given_back(queue: PermitQueue, join: Join) -> None:
    """A valid one serves whoever goes first; a void one is lost, and its caller waits at the head."""
    caller, behind = join(), join()
    give(queue, 1)
    assert taken(queue, caller) == [True]
    queue.connected(caller, 0.001)  # its connection was closed, and it has another
    assert taken(queue, caller, behind, now=0.001) == [True, False]
    queue.connected(caller, VALID_S)
    assert taken(queue, caller, behind, now=VALID_S) == [False, False]
    give(queue, 1, now=VALID_S)
    assert taken(queue, caller, behind, now=VALID_S) == [True, False]


def test_a_caller_that_loses_its_connection_keeps_its_turn(queue: PermitQueue, join: Join) -> None:
    """Others are served while it connects again; a permit that it was granted meanwhile goes to them."""
    lost, other = join(), join()
    queue.disconnected(lost, 0.0)
    assert queue.take(lost, 0.0) is NO_PERMIT
    give(queue, 1)
    assert taken(queue, other) == [True]
    queue.connected(lost, 0.0)
    give(queue, 1)
    third = join()
    queue.disconnected(lost, 0.0)
    assert taken(queue, third) == [True]
    queue.connected(lost, 0.0)
    fourth = join()
    give(queue, 1)
    assert taken(queue, lost, fourth) == [True, False]
    queue.disconnected(lost, 0.0)  # the call is under way: its connection is not the queue's business any more
    assert states(lost) == ["UNDER_WAY"]


def test_an_answer_that_comes_late_is_void(queue: PermitQueue, join: Join) -> None:
    """Permits are valid from when they were asked for: the shared quota counted them then at the latest."""
    waiter = join()
    queue.question(0.0)
    queue.answered(grant(1), VALID_S)
    assert taken(queue, waiter, now=VALID_S) == [False]


def test_where_redis_is_slow_permits_are_valid_for_longer(queue: PermitQueue, join: Join) -> None:
    """After the second answer at the latest they can be used."""
    waiter, now = join(), 0.0
    for _ in range(2):
        valid_s = queue.question(now).valid_s
        now += 0.03
        queue.answered(grant(1), now)
    assert valid_s > 0.03
    assert taken(queue, waiter, now=now) == [True]


def test_a_batch_follows_the_time_between_questions(queue: PermitQueue, join: Join) -> None:
    """As many permits as the pace brings meanwhile, within bounds; after a time without waiters it starts small."""
    join(4)
    batches = [give(queue, 0, now=now).batch_s for now in (5.0, 5.001, 5.021, 6.0)]
    assert batches == pytest.approx([MIN_BATCH_S, MIN_BATCH_S, 0.02, MAX_BATCH_S])
    queue.forget_others()
    assert queue.question(6.03).batch_s == MIN_BATCH_S


def test_a_caller_whose_turn_comes_too_late_is_refused_at_once(queue: PermitQueue, join: Join) -> None:
    """The refusal says when all that wait now, at any instance, will be served; ``refusal`` says it beforehand."""
    assert queue.refusal(1, rank=FIRST, deadline=0.5, now=0.0) is None  # nothing is known yet
    join(10)
    give(queue, 0, again_in_s=0.1, queues=(20,), pace=10.0)
    assert queue.refusal(1, rank=FIRST, deadline=FAR, now=0.0) is None
    known = queue.refusal(1, rank=FIRST, deadline=0.5, now=0.0)
    with pytest.raises(QuotaExhausted) as refusal:
        join(deadline=0.5)
    assert known is not None
    assert known.retry_after_s == refusal.value.retry_after_s == pytest.approx(0.1 + (10 + 20) / 10)
    assert queue.waiting == 10
    # Those of a worse rank are not before it.
    assert queue.refusal(1, rank=OPERATOR, deadline=0.5, now=0.0) is None


def test_the_first_answer_refuses_those_that_joined_in_ignorance(queue: PermitQueue, join: Join) -> None:
    """Nothing was known of others' queues when they joined; those with time enough keep their places."""
    patient, hasty, last = join(), join(deadline=0.2), join(deadline=0.9)
    give(queue, 0, again_in_s=0.1, queues=(2,), pace=10.0)
    assert taken(queue, patient, last) == [False, False]
    with pytest.raises(QuotaExhausted) as refusal:
        queue.take(hasty, 0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.1 + (3 + 2) / 10)
    assert queue.waiting == 2


def test_a_pace_that_falls_refuses_those_that_are_too_late_now(queue: PermitQueue, join: Join) -> None:
    """A cloud that throttles leaves no caller waiting for a turn that cannot come in time."""
    waiters = [join(deadline=2.0) for _ in range(4)]
    give(queue, 0, pace=10.0)
    assert [each.refusal for each in waiters] == [None] * 4
    give(queue, 0, pace=1.0)
    assert states(*waiters) == ["READY", "READY", "REFUSED", "REFUSED"]


def test_some_of_the_time_is_left_for_the_call(join: Join) -> None:
    """A waiter stops waiting before its deadline."""
    assert join(deadline=8.0).until == pytest.approx(8.0 * (1 - CALL_SHARE))


def test_each_decision_is_reported(queue: PermitQueue) -> None:
    """``on_changed`` is called for a place, for permits and for a refusal; one that left hears of nothing."""
    changed: list[str] = []

    def enter(name: str, rank: CallRank = FIRST) -> Waiter:
        on_changed = partial(changed.append, name)
        return queue.join(LEAST_WITHOUT_PERMIT, rank=rank, deadline=FAR, now=0.0, on_changed=on_changed)

    granted, gone, placed = enter("granted"), enter("gone"), enter("placed")
    queue.leave(gone, 0.0)
    queue.connected(granted, 0.0)
    assert changed == ["granted"]
    give(queue, LEAST_WITHOUT_PERMIT)
    assert changed == ["granted", "granted", "placed"]
    queue.refuse_all("gone")
    assert changed == ["granted", "granted", "placed", "placed"]
    assert placed.refusal


def test_while_the_cloud_does_not_answer_one_caller_waits_for_the_probe(queue: PermitQueue, join: Join) -> None:
    """The first that has the time for it; the others, and those that come, are refused at once until then."""
    hasty, candidate, other = join(deadline=2.0), join(), join(rank=RENEWAL)
    give(queue, 0, closed_for_s=5.0)
    assert states(hasty, candidate, other) == ["REFUSED", "READY", "REFUSED"]
    for refused in (hasty, other):
        assert isinstance(refused.refusal, CloudClosed)
        assert refused.refusal.retry_after_s == 5.0
    with pytest.raises(CloudClosed) as refusal:
        join(now=4.5)
    assert refusal.value.retry_after_s == LEAST_CLOSED_S
    give(queue, 1, now=5.0, closed_for_s=4.0, is_probe=True)
    permit = queue.take(candidate, 5.0)
    assert permit
    assert permit.is_probe


def test_a_probe_has_time_for_a_whole_attempt(queue: PermitQueue, join: Join) -> None:
    """After it has waited and connected: else a cloud that answers just within the time-out would never be found."""
    needed_s = 2.0 + PROBE_DELAY_S + 0.4 + 3.0  # the time until it is due, to be asked, to connect and for the answer
    connecting = join(connects=False)
    queue.connected(connecting, 0.4)
    queue.leave(connecting, 0.4)
    hasty, candidate = join(deadline=needed_s - 0.1), join(deadline=needed_s)
    give(queue, 0, closed_for_s=2.0)
    assert states(hasty, candidate) == ["REFUSED", "READY"]
    queue.leave(candidate, 0.0)
    assert isinstance(queue.refusal(1, rank=FIRST, deadline=needed_s - 0.1, now=0.0), CloudClosed)
    assert queue.refusal(1, rank=FIRST, deadline=needed_s, now=0.0) is None
    # A probe that is due already is sent later than now.
    assert isinstance(queue.refusal(1, rank=FIRST, deadline=3.0 + needed_s - 2.1, now=3.0), CloudClosed)


def test_only_applications_and_revocations_probe() -> None:
    """A call that must not be made twice, or that a person waits for, does not find out whether the cloud is back."""
    for action, can_probe in {"ApplyToken": True, "RevokeToken": True, "RegisterDeviceCredential": False}.items():
        queue = PermitQueue(action, attempt_timeout_s=3.0)
        queue.note_report(5.0, reported_at=0.0, now=0.0)
        assert (queue.refusal(1, rank=OPERATOR, deadline=FAR, now=6.0) is None) == can_probe


def test_the_candidate_connects_when_the_probe_is_due(queue: PermitQueue, join: Join) -> None:
    """Not before: an idle connection would be closed meanwhile."""
    join(deadline=1.0)
    give(queue, 0, closed_for_s=5.0)
    candidate = join(now=0.1)
    assert states(candidate) == ["WAITING"]
    queue.question(4.9)
    assert states(candidate) == ["WAITING"]
    queue.question(5.1)
    assert states(candidate) == ["PREPARING"]


def test_while_the_cloud_cannot_be_connected_to_one_caller_tries_now_and_then(queue: PermitQueue, join: Join) -> None:
    """Not each that comes: a probe that is due is taken by the first that connects."""
    candidate = join()
    give(queue, 0, closed_for_s=5.0)
    queue.disconnected(candidate, 5.0)
    queue.leave(candidate, 5.0, could_connect=False)
    with pytest.raises(CloudClosed) as refusal:
        join(now=5.1, deadline=5.2)
    assert refusal.value.retry_after_s == pytest.approx(RECONNECT_S - 0.1)
    assert states(join(now=5.1, connects=False)) == ["WAITING"]


def test_an_answer_without_a_pause_lets_all_join_again(queue: PermitQueue, join: Join) -> None:
    """The breaker has closed: whoever waits and whoever comes is served."""
    waiting = join()
    give(queue, 0, closed_for_s=5.0)
    give(queue, 1, now=1.0)
    assert taken(queue, waiting, now=1.0) == [True]
    assert states(join(now=1.0), join(now=1.0)) == ["READY", "READY"]


def test_the_reports_of_the_instance_say_that_the_cloud_is_left_alone(queue: PermitQueue, join: Join) -> None:
    """Where nothing waits, nothing is asked: then the answer to the last report counts."""
    queue.note_report(5.0, reported_at=0.0, now=0.0)
    with pytest.raises(CloudClosed):
        join(deadline=5.0)
    candidate = join(deadline=FAR)
    with pytest.raises(CloudClosed):
        join(deadline=FAR)
    queue.question(4.0)
    assert states(candidate) == ["WAITING"]
    queue.note_report(0.5, reported_at=4.0, now=4.0)  # the probe is due sooner
    queue.question(4.6)
    assert states(candidate) == ["PREPARING"]


def test_the_reports_of_the_instance_say_that_calls_go_on(queue: PermitQueue, join: Join) -> None:
    """Another instance's probe was answered while nothing waited here. Only what is newer counts."""
    queue.leave(join(), 0.0)
    give(queue, 0, now=1.0, closed_for_s=60.0)
    queue.note_report(0.0, reported_at=2.0, now=2.0)
    assert isinstance(queue.refusal(1, rank=FIRST, deadline=8.0, now=2.0), CloudClosed)  # its own answers count
    queue.forget_others()
    queue.note_report(0.0, reported_at=0.9, now=2.0)
    assert isinstance(queue.refusal(1, rank=FIRST, deadline=8.0, now=2.0), CloudClosed)
    queue.note_report(0.0, reported_at=1.1, now=2.0)
    assert states(join(now=2.0), join(now=2.0)) == ["READY", "READY"]


def test_calls_that_go_on_give_places_to_those_that_wait(queue: PermitQueue, join: Join) -> None:
    """The candidate does not wait for the time that was known before."""
    queue.note_report(5.0, reported_at=0.0, now=0.0)
    candidate = join()
    queue.note_report(0.0, reported_at=1.0, now=1.0)
    assert states(candidate) == ["PREPARING"]


def test_a_report_lets_no_caller_connect_too_soon_again(queue: PermitQueue, join: Join) -> None:
    """A probe may be due by the last report, and this instance cannot connect."""
    queue.note_report(0.001, reported_at=0.0, now=0.0)
    candidate = join(now=0.1, connects=False)
    assert states(candidate) == ["PREPARING"]
    queue.leave(candidate, 0.2, could_connect=False)
    queue.note_report(0.001, reported_at=0.3, now=0.3)
    assert states(join(now=0.3)) == ["WAITING"]


def test_an_unused_probe_is_reported() -> None:
    """A permit to probe that came late, or whose caller left, blocks no other instance's probe."""
    unsent: list[float] = []
    queue = PermitQueue("ApplyToken", attempt_timeout_s=3.0, on_probe_unsent=lambda: unsent.append(1))
    late = queue.join(1, rank=FIRST, deadline=FAR, now=0.0, on_changed=nothing)
    queue.connected(late, 0.0)
    give(queue, 1, closed_for_s=4.0, is_probe=True)
    assert queue.take(late, 0.0)
    queue.connected(late, VALID_S)
    assert unsent == [1]
    give(queue, 1, now=1.0, closed_for_s=4.0, is_probe=True)
    queue.leave(late, 1.0)  # no other caller waits that could use it
    assert unsent == [1, 1]
    queue.question(3.0)
    assert unsent == [1, 1]


def test_a_probe_that_was_taken_and_not_sent_is_reported() -> None:
    """Its connection was closed, and its caller was cancelled before it had another."""
    unsent: list[float] = []
    queue = PermitQueue("ApplyToken", attempt_timeout_s=3.0, on_probe_unsent=lambda: unsent.append(1))
    caller = queue.join(1, rank=FIRST, deadline=FAR, now=0.0, on_changed=nothing)
    queue.connected(caller, 0.0)
    give(queue, 1, closed_for_s=4.0, is_probe=True)
    assert queue.take(caller, 0.0)
    queue.give_back(caller, 0.01)
    assert states(caller) == ["PREPARING"]
    queue.leave(caller, 0.02)
    assert unsent == [1]
