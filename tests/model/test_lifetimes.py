from __future__ import annotations

import pytest

from app.model.lifetimes import MIN_LIFETIME_S, fresh_ms


@pytest.mark.parametrize(
    ("life_s", "fresh_s"), [(MIN_LIFETIME_S, 32.5), (600, 300), (720, 360), (1440, 360), (3600, 900), (86_400, 21_600)]
)
def test_a_token_is_fresh_until_a_quarter_or_six_minutes_are_left(life_s: int, fresh_s: float) -> None:
    """The renewal leaves a quarter of the life, or six minutes, but never more than half of it."""
    assert fresh_ms(life_s) == fresh_s * 1000
