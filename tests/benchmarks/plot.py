"""Plot the processor time of both sides of each measure, as SVG."""

from __future__ import annotations

import statistics
from html import escape
from typing import Final

from tests.benchmarks.measures import Measure, processor_us

WIDTH: Final = 760
BAR: Final = 22
GROUP: Final = 104
LEFT: Final = 150
LONGEST: Final = 400
TOP: Final = 62
OURS: Final = "#2563a8"
OTHER: Final = "#b9c0c9"


def svg(measures: list[Measure], subtitle: str) -> str:
    """Draw two bars for each measure. Each group has its own scale, because TLS is far larger."""
    height = TOP + GROUP * len(measures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        '<g font-family="system-ui, sans-serif" font-size="14" fill="#1d232b">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="28" font-size="18" font-weight="600">Processor time a request, in µs: less is better</text>',
        f'<text x="20" y="48" font-size="12" fill="#5b6570">{escape(subtitle)}</text>',
    ]
    for number, measure in enumerate(measures):
        parts += _group(measure, TOP + GROUP * number)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _group(measure: Measure, top: float) -> list[str]:
    sides = [("ours", OURS, measure.of(0, processor_us)), (measure.other, OTHER, measure.of(1, processor_us))]
    scale = LONGEST / max(max(times) for _, _, times in sides)
    ratio = f"{measure.other} ÷ ours {measure.ratio:.2f}"
    parts = [
        f'<text x="20" y="{top + 20}" font-weight="600">{escape(measure.name)}</text>',
        f'<text x="{LEFT}" y="{top + 20}" font-size="12" fill="#5b6570">{escape(measure.what)}</text>',
        f'<text x="{WIDTH - 20}" y="{top + 20}" font-weight="600" text-anchor="end">{escape(ratio)}</text>',
    ]
    for row, (who, colour, times) in enumerate(sides):
        y = top + 30 + row * (BAR + 6)
        middle, low, high = (scale * each for each in (statistics.median(times), min(times), max(times)))
        centre = y + BAR / 2
        parts += [
            f'<text x="{LEFT - 10}" y="{centre + 5}" text-anchor="end">{escape(who)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{middle:.1f}" height="{BAR}" fill="{colour}"/>',
            # The range of the runs, from minimum to maximum.
            f'<path stroke="#1d232b" d="M{LEFT + low:.1f} {centre}h{high - low:.1f}m0 -5v10m{low - high:.1f} -10v10"/>',
            f'<text x="{LEFT + high + 10:.1f}" y="{centre + 5}">{statistics.median(times):,.0f}</text>',
        ]
    return parts
