"""Which calls a limit admits, and what the peak is, for any calls in any order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sandbox.call_meter import Arrival, CallMeter, QuotaWindow

# Multiples of a power of two: their differences are exact.
TIMES = st.integers(0, 5 * 64).map(lambda ticks: ticks / 64)
CALLS = st.lists(TIMES, max_size=40)
LIMITS = st.integers(0, 5)
WINDOWS = st.sampled_from(QuotaWindow)


def admitted(times_s: Iterable[float], limit: int, window: QuotaWindow) -> list[float]:
    """Return the times of those calls that are admitted, in their order."""
    meter = CallMeter()
    return [at_s for at_s in times_s if meter.admit(Arrival(at_s), limit, window)]


def most(times_s: Iterable[float], window: QuotaWindow) -> int:
    """Return the most calls within one second, counted naively."""
    times = list(times_s)
    if window is QuotaWindow.WHOLE:
        return max(Counter(map(math.floor, times)).values(), default=0)
    return max((sum(1 for each in times if 0 <= end - each < 1) for end in times), default=0)


@given(CALLS, LIMITS, WINDOWS)
def test_no_second_has_more_than_the_limit(times_s: list[float], limit: int, window: QuotaWindow) -> None:
    """Never more than the limit is admitted within one second of arrival, in whatever order calls are counted."""
    assert most(admitted(times_s, limit, window), window) <= limit


@given(CALLS, LIMITS, WINDOWS)
def test_only_what_exceeds_the_limit_is_refused(times_s: list[float], limit: int, window: QuotaWindow) -> None:
    """A call is refused only if with it some second would have more than the limit."""
    meter, before = CallMeter(), list[float]()
    for at_s in times_s:
        if meter.admit(Arrival(at_s), limit, window):
            before.append(at_s)
        else:
            assert most([*before, at_s], window) > limit


@given(CALLS, LIMITS, WINDOWS)
def test_refused_calls_do_not_count(times_s: list[float], limit: int, window: QuotaWindow) -> None:
    """Without the calls that were refused the same ones are admitted: a refusal is not prolonged by trying again."""
    accepted = admitted(times_s, limit, window)
    assert admitted(accepted, limit, window) == accepted


def test_overshoot_ends() -> None:
    """A caller at twice the limit gets the whole limit in each second, because its refused calls do not count."""
    times_s = [number / 128 for number in range(10 * 128)]
    assert len(admitted(times_s, 64, QuotaWindow.SLIDING)) == 10 * 64


@given(CALLS, LIMITS, WINDOWS)
def test_a_withdrawn_call_does_not_count(times_s: list[float], limit: int, window: QuotaWindow) -> None:
    """What was admitted and withdrawn leaves its room to the next call."""
    meter = CallMeter()
    for at_s in times_s:
        if limit:
            assert meter.admit(Arrival(at_s), limit, window)
        meter.withdraw(Arrival(at_s))


@given(CALLS, WINDOWS, st.data())
def test_a_pause_refuses_no_call(times_s: list[float], window: QuotaWindow, data: st.DataObject) -> None:
    """Calls that are read late, by an unknown part of a known pause, are admitted if they kept to the limit."""
    pause_s = data.draw(st.integers(0, 128)) / 64
    limit = most(times_s, window)
    read_s = sorted(at_s + data.draw(st.integers(0, int(pause_s * 64))) / 64 for at_s in times_s)
    meter = CallMeter()
    assert all(meter.admit(Arrival(at_s, pause_s), limit, window) for at_s in read_s)


@given(CALLS, WINDOWS)
def test_the_peak_is_the_most_in_any_second(times_s: list[float], window: QuotaWindow) -> None:
    """The peak counts all calls, in whatever order they are counted."""
    meter = CallMeter()
    for at_s in times_s:
        meter.note_arrival(Arrival(at_s), window)
    assert meter.peak == most(times_s, window)


@pytest.mark.parametrize("window", QuotaWindow)
@pytest.mark.parametrize(
    "count", [CallMeter.note_arrival, lambda meter, arrival, window: meter.admit(arrival, 9, window)]
)
def test_a_meter_stays_small(window: QuotaWindow, count: Callable[[CallMeter, Arrival, QuotaWindow], object]) -> None:
    """What arrived long ago is forgotten."""
    meter = CallMeter()
    for number in range(10_000):
        count(meter, Arrival(number / 8), window)
    assert len(meter._arrived_s) + len(meter._admitted_s) <= 8 * 21
