"""No limit is exceeded at the cloud, whatever is slow, and most of it is used: real calls on a wire in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.store.quota import QuotaSettings
from tests.simulation.wire import ACTION, Delays, Pause, Wire, saturate

SECONDS = {5: 12.0, 100: 3.0, 300: 2.0}
"""For how long calls are made, by the limit: some limits' worth."""


def wire_of(limit: float, delays: Delays, *, jitter_s: float = 0.03, seed: int = 1) -> Wire:
    """Return a wire to a cloud with this limit."""
    quota = QuotaSettings({ACTION: float(limit)}, egress_qps=1e6, egress_group="default", jitter_s=jitter_s)
    return Wire(quota, delays, random.Random(seed))  # noqa: S311 (no secret)


@dataclass(frozen=True)
class BadDay:
    """Some instances, and what is slow."""

    limit: int
    instances: int
    pair_every: int | None
    jitter_s: float
    delays: Delays
    seed: int


@st.composite
def bad_days(draw: st.DrawFn) -> BadDay:
    """Delays within the jitter, permits as old as they may be, and pauses of one instance or of all."""
    limit = draw(st.sampled_from([*SECONDS]))
    instants = st.floats(0, SECONDS[limit])
    pauses = st.builds(Pause, st.integers(0, 2), instants, st.floats(0.01, 1.5))
    delays = Delays(
        redis_s=draw(st.sampled_from([0.001, 0.008, 0.03])),
        connect_s=draw(st.sampled_from([0.001, 0.1])),
        step_s=draw(st.sampled_from([0, 0.002, 0.03])),
        pauses=draw(st.lists(pauses, max_size=3)),
        turns=[*accumulate(draw(st.lists(st.floats(0.2, 3), min_size=1, max_size=6)))],
    )
    return BadDay(
        limit=limit,
        instances=draw(st.integers(1, 3)),
        pair_every=draw(st.sampled_from([None, 1, 3])),
        jitter_s=draw(st.sampled_from([0, 0.03, 0.2])),
        delays=delays,
        seed=draw(st.integers(0, 1000)),
    )


LATE = BadDay(5, 1, None, 0, Delays(step_s=0.03, turns=(6.0,)), seed=1)
"""Permits are too old when the call is to be written."""


@settings(max_examples=30)
@example(day=LATE)
@given(day=bad_days())
def test_no_limit_is_exceeded_at_the_cloud(day: BadDay) -> None:
    """In no second, with any delay within the jitter, whatever Redis, connecting, steps and whole instances take."""
    wire = wire_of(day.limit, day.delays, jitter_s=day.jitter_s, seed=day.seed)
    callers = max(6, day.limit // day.instances)
    seconds = SECONDS[day.limit]
    saturate(wire, instances=day.instances, callers=callers, seconds=seconds, pair_every=day.pair_every)
    assert 0 < wire.most_in_a_second() <= day.limit


@pytest.mark.parametrize(
    ("limit", "instances", "pair_every"),
    [(5, 1, None), (5, 3, None), (100, 1, None), (100, 3, None), (100, 3, 1), (100, 3, 3), (300, 3, None), (300, 3, 2)],
)
def test_a_limit_is_used(limit: int, instances: int, pair_every: int | None) -> None:
    """With demand, and Redis and network as they usually are: 95 % of it in permits, 93 % on the wire.

    Also where every caller needs two permits at once (``pair_every`` 1), or some do.
    """
    seconds = {5: 20, 100: 6, 300: 4}[limit]
    wire = wire_of(limit, Delays())
    callers = max(6, 2 * limit // instances)
    saturate(wire, instances=instances, callers=callers, seconds=seconds, pair_every=pair_every)
    assert wire.most_in_a_second() <= limit
    assert len(wire.taken) >= 0.95 * limit * seconds
    assert len(wire.sent) >= 0.93 * limit * seconds
