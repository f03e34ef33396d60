from __future__ import annotations

import pytest

from app.service.place_limits import DECAY, LEAST, LEAST_OF_ALL, LEAST_WITHOUT_PERMIT, PlaceLimits
from tests.service.grants import grant


@pytest.mark.parametrize(
    ("full_pace", "instances", "places"),
    [(95.2, 1, 286), (95.2, 3, 96), (4.76, 1, 15), (4.76, 3, 5), (0.5, 1, LEAST_OF_ALL), (0.5, 100, LEAST)],
)
def test_places_are_what_the_pace_needs_within_the_time_out(full_pace: float, instances: int, places: int) -> None:
    """Shared by the live instances; never fewer than a pair needs."""
    limits = PlaceLimits(3.0)
    assert limits.places == LEAST_OF_ALL  # before anything is known
    limits.adapt(grant(0, full_pace=full_pace, pace=1.0, instances=instances))
    assert limits.places == places


def test_callers_connect_ahead_of_their_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as this instance's share of the pace serves in the time to connect, and never too few."""
    limits = PlaceLimits(3.0)
    assert limits.without_permit == LEAST_WITHOUT_PERMIT
    limits.adapt(grant(0, pace=100.0, queues=(5, 0)))
    assert limits.without_permit == 5  # half of the pace, as one other queue waits, for 0.1 s
    limits.note_connected(0.4)
    limits.adapt(grant(0, pace=100.0))
    assert limits.without_permit == 40
    limits.adapt(grant(0, pace=100.0, group_pace=50.0))
    assert limits.without_permit == 20
    limits.adapt(grant(0, pace=2.0))
    assert limits.without_permit == LEAST_WITHOUT_PERMIT


def test_a_long_time_to_connect_is_forgotten_slowly() -> None:
    """Most callers find a connection that is open: the ones that do not decide how many must connect ahead."""
    limits = PlaceLimits(3.0)
    limits.note_connected(0.4)
    for _ in range(5):
        limits.note_connected(0.0)
    limits.adapt(grant(0, pace=1000.0))
    assert limits.without_permit == pytest.approx(400 * DECAY**5, abs=1)
