from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.service.check_turns import SAVED_S, SHARE, CheckTurns, ProcessorShare
from app.service.client_credentials import NotProven

COST_S = 0.001


class FakeProcessor:
    """A processor whose time is spent by hand."""

    def __init__(self) -> None:
        self.used_s = 0.0

    def __call__(self) -> float:
        """Return the seconds that were spent."""
        return self.used_s


@pytest.fixture
def processor() -> FakeProcessor:
    """A processor that has done nothing yet."""
    return FakeProcessor()


@pytest.fixture
def turns(processor: FakeProcessor) -> CheckTurns:
    """Turns on that processor."""
    return CheckTurns(processor)


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.01)), max_size=100),
    st.integers(0, 99),
)
def test_failing_checks_take_no_more_than_their_share(asked: list[tuple[float, float]], since: int) -> None:
    """An attacker gains nothing by bursts, whatever each check takes.

    Between any two instants they use the share, what was saved up before, and the time of the last one.
    """
    share = ProcessorShare(SHARE, SAVED_S)
    now, ran = 0.0, []
    for pause_s, used_s in asked:
        now = max(now + pause_s, share.free_at)
        share.spend(used_s, now)
        ran.append((now, used_s))
    window = ran[since:]
    if window:
        passed_s = window[-1][0] - window[0][0]
        assert sum(used_s for _, used_s in window[:-1]) <= SHARE * (passed_s + SAVED_S) + 1e-9


def test_after_a_calm_moment_nothing_waits() -> None:
    """What is saved up is used at once, and no more is saved up however long it was calm."""
    share = ProcessorShare(SHARE, SAVED_S)
    now, at_once = 1000.0, 0
    while share.free_at <= now:
        share.spend(COST_S, now)
        at_once += 1
    assert at_once == pytest.approx(SHARE * SAVED_S / COST_S, abs=1.5)


def failing(processor: FakeProcessor, ran: list[str], name: str) -> Callable[[], None]:
    """Return a check that takes its time and fails."""

    def check() -> None:
        ran.append(name)
        processor.used_s += COST_S
        raise NotProven(name)

    return check


def right(processor: FakeProcessor, ran: list[str], name: str) -> Callable[[], str]:
    """Return a check that takes its time and succeeds."""

    def check() -> str:
        ran.append(name)
        processor.used_s += COST_S
        return name

    return check


def deadline(seconds: float = 20) -> float:
    """Return an instant of the loop's time."""
    return asyncio.get_running_loop().time() + seconds


def use_up(turns: CheckTurns, processor: FakeProcessor, *, wait_s: float) -> None:
    """Use the whole share, so that the next turn comes in so many seconds."""

    def check() -> None:
        processor.used_s += (wait_s + SAVED_S) * SHARE
        raise NotProven("used up")

    with pytest.raises(NotProven):
        turns.check_at_once(check)


async def test_known_clients_go_first(turns: CheckTurns, processor: FakeProcessor) -> None:
    """A device whose client ID is attacked does not wait behind strangers, however many came before it."""
    ran: list[str] = []
    use_up(turns, processor, wait_s=0.05)
    strangers = [
        asyncio.create_task(
            turns.check_in_turn(failing(processor, ran, f"stranger {n}"), is_known=False, deadline=deadline())
        )
        for n in range(3)
    ]
    await asyncio.sleep(0)
    known = [
        asyncio.create_task(
            turns.check_in_turn(right(processor, ran, f"known {n}"), is_known=True, deadline=deadline())
        )
        for n in range(3)
    ]
    assert await asyncio.gather(*known) == ["known 0", "known 1", "known 2"]
    refused = await asyncio.gather(*strangers, return_exceptions=True)
    assert [str(each) for each in refused] == ["stranger 0", "stranger 1", "stranger 2"]
    assert ran == ["known 0", "known 1", "known 2", "stranger 0", "stranger 1", "stranger 2"]


async def test_the_right_key_takes_nothing_from_the_share(turns: CheckTurns, processor: FakeProcessor) -> None:
    """Devices that share an address with an attacker are not slowed down by one another."""
    ran: list[str] = []
    for _ in range(1000):
        assert await turns.check_in_turn(right(processor, ran, "known"), is_known=True, deadline=deadline()) == "known"
    assert turns._share.free_at < asyncio.get_running_loop().time()


async def test_a_failure_that_did_not_wait_is_paid_for(turns: CheckTurns, processor: FakeProcessor) -> None:
    """An attacker who knows many client IDs leaves strangers less, and not known devices."""
    ran: list[str] = []
    while turns._is_free():
        with pytest.raises(NotProven):
            turns.check_at_once(failing(processor, ran, "wrong key"))
    with pytest.raises(TimeoutError):
        await turns.check_in_turn(failing(processor, ran, "stranger"), is_known=False, deadline=deadline(0))
    assert turns.check_at_once(right(processor, ran, "known")) == "known"
    assert "stranger" not in ran


async def test_who_gave_up_takes_no_time(turns: CheckTurns, processor: FakeProcessor) -> None:
    """A check whose caller is gone, or whose deadline has passed, is not made."""
    ran: list[str] = []
    use_up(turns, processor, wait_s=0.05)
    gone = asyncio.create_task(
        turns.check_in_turn(failing(processor, ran, "gone"), is_known=False, deadline=deadline())
    )
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(TimeoutError):
        await turns.check_in_turn(failing(processor, ran, "late"), is_known=True, deadline=deadline(0))
    assert await turns.check_in_turn(right(processor, ran, "last"), is_known=False, deadline=deadline()) == "last"
    assert ran == ["last"]


async def test_a_broken_check_breaks_no_other(turns: CheckTurns, processor: FakeProcessor) -> None:
    """A fault is raised where the check was asked for, and the next one runs."""
    ran: list[str] = []

    def broken() -> None:
        raise ZeroDivisionError

    first = asyncio.create_task(turns.check_in_turn(broken, is_known=False, deadline=deadline()))
    second = asyncio.create_task(turns.check_in_turn(right(processor, ran, "b"), is_known=False, deadline=deadline()))
    with pytest.raises(ZeroDivisionError):
        await first
    assert await second == "b"
