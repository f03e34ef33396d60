"""The geometry of a chart: bars of two parts, one on the other, in a field of fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HEIGHT: Final = 100.0
STEP: Final = 10
"""From one bar to the next."""

WIDE: Final = 8
LEAST: Final = 1.5
"""The least height of what is not 0: beside one huge minute, a single request can still be seen."""

_ROUND: Final = (2, 4, 6, 8, 10)
"""Even, so that half of the scale is a whole number too."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its left edge, and top and height of the lower part ``a`` and of ``b`` on it."""

    x: int
    a_top: float
    a_height: float
    b_top: float
    b_height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars in a field of ``width`` by ``height``; ``top`` is the number at its upper edge, 0 where there is nothing."""

    bars: tuple[Bar, ...]
    top: int
    width: int
    height: int = int(HEIGHT)
    bar_width: int = WIDE


def stack(pairs: Sequence[tuple[int, int]]) -> Chart:
    """Return a bar for each pair of numbers, which are not negative."""
    top = _scale(max((a + b for a, b in pairs), default=0))
    bars = tuple(_bar(place * STEP + (STEP - WIDE) // 2, a, b, top) for place, (a, b) in enumerate(pairs) if a + b)
    return Chart(bars, top, len(pairs) * STEP)


def _bar(x: int, a: int, b: int, top: int) -> Bar:
    a_height, b_height = (max(LEAST, each / top * HEIGHT) if each else 0.0 for each in (a, b))
    beyond = max(0.0, a_height + b_height - HEIGHT)
    if a_height > b_height:
        a_height -= beyond
    else:
        b_height -= beyond
    a_top = HEIGHT - a_height
    return Bar(x, *(round(each, 2) for each in (a_top, a_height, a_top - b_height, b_height)))


def _scale(largest: int) -> int:
    """Return the first round number that is not smaller; 0 for 0."""
    unit = 1
    while largest > _ROUND[-1] * unit:
        unit *= 10
    return next(each * unit for each in (0, *_ROUND) if each * unit >= largest)
