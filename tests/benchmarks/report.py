"""The results, as text and as JSON."""

from __future__ import annotations

import platform
import statistics
from typing import Any

from tests.benchmarks.measures import CONCURRENCY, Measure, Size, processor_us, rate
from tests.benchmarks.meter import CORES
from tests.benchmarks.weight import Weight


def text(measures: list[Measure], weight: Weight, size: Size, machine: str) -> str:
    """Return the tables, and at the end a line for each ratio."""
    lines = [
        machine,
        f"{size.pairs} pairs (ours, the other, ours, …), {CONCURRENCY} requests under way; the middle of each",
        "",
        f"{'':24}{'processor time':>16}{'Redis beside':>14}{'requests':>11}{'p50':>9}{'p99':>9}",
        f"{'':24}{'µs a request':>16}{'it, µs':>14}{'a second':>11}{'ms':>9}{'ms':>9}",
    ]
    for measure in measures:
        for side, who in enumerate(("ours", measure.other)):
            lines.append(f"{measure.name + ', ' + who:24}{_row(measure, side)}")
    lines += [
        "",
        f"Redis: {weight.used_memory:.0f} bytes a live token (two cloud tokens), over {weight.tokens}; by key: ",
    ]
    lines[-1] += ", ".join(f"{kind} {size_bytes:.0f}" for kind, size_bytes in weight.keys.items())
    lines.append("")
    for measure in measures:
        low, high = min(measure.ratios), max(measure.ratios)
        lines.append(
            f"{measure.name + ':':12}{measure.other} ÷ ours {measure.ratio:.2f}   (pairs {low:.2f} to {high:.2f})"
        )
    return "\n".join(lines)


def _row(measure: Measure, side: int) -> str:
    def middle(key: str) -> float:
        return statistics.median(measure.of(side, lambda result: float(result[key])))

    redis = [result["processor_us"].get("redis") for result in (pair[side] for pair in measure.pairs)]
    redis_us = f"{statistics.median(redis):.0f}" if None not in redis else ""
    return (
        f"{statistics.median(measure.of(side, processor_us)):>16.0f}{redis_us:>14}"
        f"{statistics.median(measure.of(side, rate)):>11.0f}{middle('p50_ms'):>9.1f}{middle('p99_ms'):>9.1f}"
    )


def as_json(measures: list[Measure], weight: Weight, machine: str) -> dict[str, Any]:
    """Return all results, including each run of each pair."""
    return {
        "machine": machine,
        "concurrency": CONCURRENCY,
        "redis_bytes_per_token": {
            "used_memory": weight.used_memory,
            "tokens": weight.tokens,
            "keys": dict(weight.keys),
        },
        "measures": {
            measure.name: {
                "what": measure.what,
                "other": measure.other,
                "ratio": measure.ratio,
                "ratios": measure.ratios,
                "pairs": [{"ours": ours, "other": other} for ours, other in measure.pairs],
            }
            for measure in measures
        },
    }


def machine(redis_version: str) -> str:
    """Describe the machine in one line."""
    cores = len(set(CORES))
    where = "measured processes on one core, Redis, cloud and load on another" if cores > 1 else "all on one core"
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {redis_version}; {where}"
