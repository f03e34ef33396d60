"""A picture of the results, as SVG: how many devices have their token by when, against the ideal."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from typing import Final

from tests.simulation.report import duration
from tests.simulation.scenario import Outcome, Scenario

LEFT: Final = 24
PANEL_WIDTH: Final = 190
PANEL_HEIGHT: Final = 110
COLUMN: Final = 214
ROW: Final = 266
TOP: Final = 84
COLUMNS: Final = 4
POINTS: Final = 160
LONGEST: Final = 1.2
"""The width of a panel, in multiples of the ideal time."""

_STYLE: Final = """
text { fill: #1d232b; font: 12px system-ui, sans-serif }
.paper { fill: #ffffff }
.title { font-size: 18px; font-weight: 600 }
.head { font-size: 14px; font-weight: 600 }
.note { fill: #5b6570 }
.frame { fill: none; stroke: #b9c0c9 }
.ideal { fill: none; stroke: #8a939e; stroke-width: 1.5; stroke-dasharray: 5 4 }
.alone { fill: none; stroke: #2563a8; stroke-width: 2.5 }
.other { fill: none; stroke: #b4530a; stroke-width: 2 }
text.alone { fill: #2563a8; stroke: none }
text.other { fill: #b4530a; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed }
  .paper { fill: #14181d }
  .note { fill: #9aa4b0 }
  .frame { stroke: #4a525c }
  .alone { stroke: #6aa8ee }
  .other { stroke: #f0944a }
  text.alone { fill: #6aa8ee; stroke: none }
  text.other { fill: #f0944a; stroke: none }
}
"""


def svg(outcomes: Sequence[Outcome], subtitle: str) -> str:
    """Draw a panel for each number of devices, limit and outage; other demand is a second curve in it."""
    panels: dict[tuple[float, int, float], list[Outcome]] = {}
    for outcome in outcomes:
        scenario = outcome.scenario
        panels.setdefault((scenario.outage_s, scenario.devices, scenario.limit), []).append(outcome)
    height = TOP + ROW * -(-len(panels) // COLUMNS)
    width = LEFT + COLUMN * COLUMNS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        f'<text class="title" x="{LEFT}" y="28">Devices that have their token, after all asked at once</text>',
        f'<text class="note" x="{LEFT}" y="48">{escape(subtitle)}</text>',
    ]
    for number, key in enumerate(sorted(panels)):
        parts += _panel(panels[key], LEFT + number % COLUMNS * COLUMN, TOP + number // COLUMNS * ROW)
    return "\n".join([*parts, "</svg>", ""])


def _panel(outcomes: Sequence[Outcome], left: float, top: float) -> list[str]:
    scenario = outcomes[0].scenario
    longest_s = LONGEST * max(outcome.ideal_s for outcome in outcomes)
    bottom = top + PANEL_HEIGHT
    parts = [
        f'<text class="head" x="{left}" y="{top - 8}">{escape(_head(scenario))}</text>',
        f'<rect class="frame" x="{left}" y="{top}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"/>',
        f'<text class="note" x="{left}" y="{bottom + 16}">0</text>',
        f'<text class="note" x="{left + PANEL_WIDTH}" y="{bottom + 16}" text-anchor="end">{duration(longest_s)}</text>',
    ]
    y = bottom + 34
    for outcome in outcomes:
        kind = "other" if outcome.scenario.other_demand else "alone"
        ideal_x = left + PANEL_WIDTH * outcome.ideal_s / longest_s
        parts.append(f'<path class="ideal" d="M{left} {bottom}L{ideal_x:.1f} {top}"/>')
        parts.append(f'<path class="{kind}" d="{_curve(outcome, longest_s, left, bottom)}"/>')
        for text in _figures(outcome):
            parts.append(f'<text class="{kind}" x="{left}" y="{y}">{escape(text)}</text>')
            y += 15
        y += 4
    return parts


def _head(scenario: Scenario) -> str:
    return f"{scenario.devices:,}, {scenario.limit:.0f}/s, {'outage' if scenario.outage_s else 'storm'}"


def _curve(outcome: Outcome, longest_s: float, left: float, bottom: float) -> str:
    points = []
    for number in range(POINTS + 1):
        share = number / POINTS
        served = bisect_right(outcome.served_at, outcome.began_at + share * longest_s)
        y = bottom - PANEL_HEIGHT * served / len(outcome.served_at)
        points.append(f"{left + PANEL_WIDTH * share:.1f} {y:.1f}")
    return f"M{'L'.join(points)}"


def _figures(outcome: Outcome) -> list[str]:
    scenario = outcome.scenario
    during = f"{outcome.mean_in_outage:.0f} in the outage, " if scenario.outage_s else ""
    other = f"{scenario.other_demand:.0%} other demand: " if scenario.other_demand else ""
    return [
        f"{other}{outcome.drained:.2f} times the ideal",
        f"refusals {during}{outcome.mean_after:.2f}, at most {outcome.most_after}",
        f"{outcome.kept_share:.1%} of promises kept",
    ]
