"""The callers of one API alone."""

from __future__ import annotations

from app.model.calls import CallRank
from app.service.permit_waiters import Waiter, Waiters, WaiterState


def waiter(rank: CallRank) -> Waiter:
    """Return a caller."""
    return Waiter(1, rank, until=8.0, deadline=8.0, on_changed=lambda: None)


def test_those_that_have_left_are_forgotten() -> None:
    """Also where better callers wait all the time, so that they never come first."""
    waiters, first = Waiters(), waiter(CallRank.FIRST)
    waiters.add(first)
    lasting = [waiter(CallRank.RENEWAL) for _ in range(10)]
    for each in lasting:
        waiters.add(each)
    for _ in range(1000):
        renewal = waiter(CallRank.RENEWAL)
        waiters.add(renewal)
        waiters.move(renewal, WaiterState.GONE)
    assert len(waiters._heaps[WaiterState.WAITING]) <= 2 * 12 + 64
    served = []
    while best := waiters.first(WaiterState.WAITING):
        served.append(best)
        waiters.move(best, WaiterState.GONE)
    assert served == [first, *lasting]
