"""The rows as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.storm.cloud import APPLY
from tests.benchmarks.storm.outcome import Outcome

BEGIN: Final = "<!-- python -m tests.benchmarks.storm --write: begin -->"
END: Final = "<!-- end -->"

REVOKE: Final = "RevokeToken"
COLUMNS: Final = (
    "",
    "sent",
    "tokens",
    "503",
    "wrong",
    "live tokens refused",
    "refusals a token",
    "of quota",
    "most in a second",
    "Overflow",
    "blocked",
    "`Retry-After`: error",
    "live p99",
)


def tables(outcomes: Sequence[Outcome], machine: str) -> str:
    """Return a table for each number of instances, and the notes of its rows."""
    counts = sorted({each.instances for each in outcomes}, reverse=True)
    parts = [machine]
    for count in counts:
        rows = [each for each in outcomes if each.instances == count]
        parts += ["Three instances:" if count == 3 else "One instance alone:" if count == 1 else f"{count} instances:"]
        parts += ["\n".join(_table(rows)), "\n".join(_notes(rows))]
    return "\n\n".join(part for part in parts if part)


def write_between_marks(path: Path, text: str) -> None:
    """Replace what a document has between the marks. Raises ``ValueError`` if it has none."""
    document = path.read_text(encoding="utf-8")
    before, begin, rest = document.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not begin or not found:
        raise ValueError(f"{path} has no {BEGIN} with {END} after it: add them where the tables are to be")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _table(rows: Sequence[Outcome]) -> Iterator[str]:
    calm_ms = next((each.live_p99_ms for each in rows if each.key == "calm"), 0.0)
    yield _line(COLUMNS)
    yield _line(["---", *["---:"] * (len(COLUMNS) - 1)])
    for each in rows:
        yield _line(_cells(each, calm_ms))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Outcome, calm_ms: float) -> list[str]:
    tally, (median_s, p90_s) = row.tally, row.promise_error_s
    against = f" ({row.live_p99_ms / calm_ms:.1f} times)" if calm_ms and row.key != "calm" else ""
    return [
        row.case.name,
        f"{tally.sent:,}",
        f"{tally.tokens:,}",
        f"{tally.refused:,}",
        str(tally.wrong),
        f"{tally.live_refused} of {tally.live_sent:,}",
        f"{row.refusals_a_token:.2f}",
        f"{row.share_of_quota:.1%}",
        _peaks(row.peaks, row.case.quotas.real_apply_qps, row.case.quotas.egress_qps),
        _overflow(row),
        "yes" if row.is_blocked else "no",
        f"{median_s:.1f} / {p90_s:.1f} s" if tally.promises else "",
        f"{row.live_p99_ms:.0f} ms{against}",
    ]


def _overflow(row: Outcome) -> str:
    injected = sum(faults.get("throttle", 0) for faults in row.injected.values())
    return f"{row.overflow} beyond {injected:,}" if injected else str(row.overflow)


def _peaks(peaks: Mapping[str, int], apply_qps: int, egress_qps: int) -> str:
    """Return the highest counts, each with its limit: of ApplyToken, RevokeToken and the address."""
    limits = {APPLY: apply_qps, REVOKE: 5, "address": egress_qps}
    return ", ".join(f"{peaks[name]} of {limit}" for name, limit in limits.items() if name in peaks)


def _notes(rows: Sequence[Outcome]) -> Iterator[str]:
    for row in rows:
        if notes := "; ".join(row.notes()):
            yield f"- {row.case.name}: {notes}"
