from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.console.chart import HEIGHT, LEAST, STEP, stack

numbers = st.integers(0, 10**9)


def test_an_empty_hour_has_no_bars_and_no_scale() -> None:
    """Where nothing was counted nothing is drawn, in a field as wide as any other."""
    chart = stack([(0, 0)] * 60)
    assert (chart.bars, chart.top, chart.width) == ((), 0, 60 * STEP)


def test_heights_are_shares_of_the_scale() -> None:
    """Of a scale of 100, 50 and 30 on it are half and three tenths of the field."""
    [bar] = stack([(50, 30), (0, 0)]).bars
    assert (bar.a_height, bar.a_top, bar.b_height, bar.b_top) == (62.5, 37.5, 37.5, 0)
    chart = stack([(50, 30), (100, 0)])
    assert chart.top == 100
    bar = chart.bars[0]
    assert (bar.a_height, bar.a_top, bar.b_height, bar.b_top) == (50, 50, 30, 20)
    assert [each.x // STEP for each in chart.bars] == [0, 1]


def test_beside_one_huge_minute_a_single_request_can_be_seen() -> None:
    """What is there at all is drawn, however small beside the rest, and on top of the huge one too."""
    single, huge = stack([(1, 0), (0, 0), (999_999, 1)]).bars
    assert single.a_height == LEAST
    assert huge.b_height == LEAST
    assert huge.a_height + huge.b_height == HEIGHT


@pytest.mark.parametrize(
    ("largest", "top"), [(1, 2), (2, 2), (3, 4), (10, 10), (11, 20), (99, 100), (100, 100), (101, 200), (1958, 2000)]
)
def test_the_scale_is_a_round_number_with_a_whole_half(largest: int, top: int) -> None:
    """The number at the upper edge is the first round one that nothing exceeds."""
    assert stack([(largest, 0)]).top == top


@given(st.lists(st.tuples(numbers, numbers), max_size=60))
def test_no_bar_leaves_the_field(pairs: list[tuple[int, int]]) -> None:
    """Every part of every bar lies in the field, one part on the other, and only what is not there has no height."""
    chart = stack(pairs)
    assert chart.top % 2 == 0
    assert len(chart.bars) == sum(1 for a, b in pairs if a + b)
    for bar in chart.bars:
        a, b = pairs[bar.x // STEP]
        assert -0.01 <= bar.b_top <= bar.a_top <= HEIGHT
        assert abs(bar.a_top + bar.a_height - HEIGHT) < 0.02
        assert abs(bar.b_top + bar.b_height - bar.a_top) < 0.02
        assert (bar.a_height > 0, bar.b_height > 0) == (a > 0, b > 0)
        assert 0 <= bar.x < bar.x + chart.bar_width <= chart.width
