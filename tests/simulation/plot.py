"""A picture of the results, as SVG: how many devices have their token by when, against the ideal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from tests.simulation.report import duration
from tests.simulation.scenario import Outcome

LEFT: Final = 24
PANEL_WIDTH: Final = 190
PANEL_HEIGHT: Final = 110
COLUMN: Final = 214
ROW: Final = 232
TOP: Final = 122
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
path { fill: none; stroke-width: 2 }
.frame { fill: none; stroke: #b9c0c9 }
.ideal { stroke: #8a939e; stroke-width: 1.5; stroke-dasharray: 5 4 }
path.alone { stroke: #2563a8 }
path.beside { stroke: #b4530a }
text.alone { fill: #2563a8 }
text.beside { fill: #b4530a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed }
  .paper { fill: #14181d }
  .note { fill: #9aa4b0 }
  .frame { stroke: #4a525c }
  path.alone { stroke: #6aa8ee }
  path.beside { stroke: #f0944a }
  text.alone { fill: #6aa8ee }
  text.beside { fill: #f0944a }
}
"""

_NOTES: Final = (
    "The share that has its token, from when calls are made. Dashed: the ideal, with every permit used.",
    "Below: time in all to the ideal, promises kept, refusals a device (in the outage + after it).",
)


def svg(outcomes: Sequence[Outcome]) -> str:
    """Draw a panel for each number of devices, limit and outage; other demand is a second curve in it."""
    panels: dict[tuple[float, int, float], list[Outcome]] = {}
    for outcome in outcomes:
        scenario = outcome.scenario
        panels.setdefault((scenario.outage_s, scenario.devices, scenario.limit), []).append(outcome)
    width, height = LEFT + COLUMN * COLUMNS, TOP + ROW * -(-len(panels) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        _text(LEFT, 28, "Devices that all ask at once", "title"),
        *(_text(LEFT, 48 + 15 * row, text, "note") for row, text in enumerate(_NOTES)),
        _text(LEFT, 82, "alone", "alone"),
        _text(LEFT + 50, 82, "beside other devices, which need 20 % of the pace", "beside"),
    ]
    for number, key in enumerate(sorted(panels)):
        parts += _panel(panels[key], LEFT + number % COLUMNS * COLUMN, TOP + number // COLUMNS * ROW)
    return "\n".join([*parts, "</svg>", ""])


def _panel(outcomes: Sequence[Outcome], left: float, top: float) -> list[str]:
    scenario = outcomes[0].scenario
    longest_s = LONGEST * max(outcome.ideal_s for outcome in outcomes)
    bottom = top + PANEL_HEIGHT
    cause = "outage" if scenario.outage_s else "storm"
    parts = [
        _text(left, top - 8, f"{scenario.devices:,}, {scenario.limit:.0f}/s, {cause}", "head"),
        f'<rect class="frame" x="{left}" y="{top}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"/>',
        _text(left, bottom + 16, "0", "note"),
        _text(left + PANEL_WIDTH, bottom + 16, duration(longest_s), 'note" text-anchor="end'),
    ]
    for row, outcome in enumerate(outcomes):
        kind = "beside" if outcome.scenario.other_demand else "alone"
        served, ideal = _curve(outcome.served_by, outcome, longest_s), _curve(outcome.ideal_served, outcome, longest_s)
        place = f'transform="translate({left} {bottom})"'
        parts += [f'<path class="ideal" {place} d="{ideal}"/>', f'<path class="{kind}" {place} d="{served}"/>']
        y = bottom + 34 + 32 * row
        parts += [_text(left, y + 15 * number, text, kind) for number, text in enumerate(_figures(outcome))]
    return parts


def _curve(served_by: Callable[[float], float], outcome: Outcome, longest_s: float) -> str:
    points = []
    for number in range(POINTS + 1):
        across = number / POINTS
        share = min(1, served_by(across * longest_s) / len(outcome.served_at))
        points.append(f"{PANEL_WIDTH * across:.1f} {-PANEL_HEIGHT * share:.1f}")
    return f"M{'L'.join(points)}"


def _figures(outcome: Outcome) -> tuple[str, str]:
    in_outage = f"{outcome.mean_in_outage:.1f} + " if outcome.scenario.outage_s else ""
    return (
        f"{outcome.drained:.2f} of the ideal, {outcome.kept_share:.1%} kept",
        f"{in_outage}{outcome.mean_after:.2f} refusals, most {outcome.most_after}",
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'
