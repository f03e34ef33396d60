"""The results as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.simulation.scenario import Outcome

_COLUMNS: Final = (
    "devices",
    "limit",
    "after",
    "other demand",
    "called again after",
    "refusals a device in the outage",
    "after it",
    "p99",
    "most",
    "promises kept",
    "drained ÷ ideal",
    "most in a second",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a row for each outcome."""
    rows = [_COLUMNS, ("---:",) * len(_COLUMNS), *map(_row, outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    scenario = outcome.scenario
    is_outage = scenario.outage_s > 0
    return (
        f"{scenario.devices:,}",
        f"{scenario.limit:.0f}/s",
        f"outage, {duration(scenario.outage_s)}" if is_outage else "storm",
        f"{scenario.other_demand:.0%}",
        f"{outcome.began_at - scenario.outage_s:.0f} s" if is_outage else "",
        f"{outcome.mean_in_outage:.1f}" if is_outage else "",
        f"{outcome.mean_after:.2f}",
        f"{outcome.p99_after}",
        f"{outcome.most_after}",
        f"{outcome.kept_share:.1%}",
        f"{outcome.drained:.3f}",
        f"{outcome.most_in_a_second}",
    )


def duration(seconds: float) -> str:
    """Write a time in the largest unit of which it is at least one."""
    for unit, unit_s in (("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds:.3g} s"
