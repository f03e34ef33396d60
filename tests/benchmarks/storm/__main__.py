"""Overload real instances, with a cloud that fails: ``python -m tests.benchmarks.storm [--reduced]``.

Real processes: Valkey with ``appendfsync always``, the sandbox with today's quotas, instances with the default
settings, and devices (``crowd``). Each row is a run of its own. It exits with 1 if a promise is broken in a row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from app.logs import configure_logging
from tests.benchmarks.storm import site
from tests.benchmarks.storm.cases import CASES, LIVE_DEVICES, REDUCED, Case
from tests.benchmarks.storm.measure import Progress, Row, issue_live, measure
from tests.benchmarks.storm.outcome import Outcome
from tests.benchmarks.storm.table import tables, write_between_marks
from tests.processes import ROOT

DOCUMENT: Final = ROOT / "deploy/BENCHMARKS.md"


def main() -> None:
    """Run the rows and print the tables."""
    options = parse(sys.argv[1:])
    configure_logging("warning")
    began_s = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - began_s:6.1f} s] {text}", file=sys.stderr, flush=True)

    outcomes = list(run_reduced(options, progress) if options.reduced else run_all(options, progress))
    text = tables(outcomes, machine(time.monotonic() - began_s))
    print(text)
    if options.json:
        content = json.dumps([each.as_json() for each in outcomes], indent=1)
        options.json.write_text(f"{content}\n", encoding="utf-8")
    if options.write:
        write_between_marks(DOCUMENT, text)
    broken = [f"{each.case.name}: {what}" for each in outcomes for what in each.broken_promises()]
    print("\n".join(["", *broken]) if broken else "\nEvery promise was kept.")
    sys.exit(1 if broken else 0)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the options; exits with one line if one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), help=f"some of {','.join(CASES)} (default all)")
    parser.add_argument("--instances", type=int, choices=(1, 3), help="only on so many (default 3, and then 1)")
    parser.add_argument("--reduced", action="store_true", help="four short rows on three instances, as in CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument(
        "--server", type=Path, default=ROOT, metavar="DIR", help="run the instances of another version, to compare"
    )
    options = parser.parse_args(arguments)
    known = REDUCED if options.reduced else CASES
    if unknown := set(options.rows or ()) - known.keys():
        parser.error(f"--rows: unknown {', '.join(sorted(unknown))}: use some of {','.join(known)}")
    if sys.platform != "linux":
        parser.error("processor time is measured by Linux's clocks: run it there")
    return options


def run_all(options: argparse.Namespace, progress: Progress) -> Iterator[Outcome]:
    """Run the rows, each on processes of its own."""
    cases = _chosen(CASES, options)
    with tempfile.TemporaryDirectory(prefix="storm-") as directory:
        registered = _register(Path(directory), max(map(_new_devices, cases.values())), progress)
        for instances in [options.instances] if options.instances else [3, 1]:
            for key, case in cases.items():
                if instances > 1 or not case.needs_several:
                    with site.running(registered, instances, case.quotas, server=options.server) as running:
                        issue_live(running)
                        yield _measure(Row(key, case, running, LIVE_DEVICES), progress)


def run_reduced(options: argparse.Namespace, progress: Progress) -> Iterator[Outcome]:
    """Run the short rows, all on the same processes."""
    cases = _chosen(REDUCED, options)
    [quotas] = {case.quotas for case in cases.values()}
    with tempfile.TemporaryDirectory(prefix="storm-") as directory:
        registered = _register(Path(directory), sum(map(_new_devices, cases.values())), progress)
        with site.running(registered, 3, quotas, server=options.server) as running:
            issue_live(running)
            first = LIVE_DEVICES
            for key, case in cases.items():
                yield _measure(Row(key, case, running, first), progress)
                first += _new_devices(case)


def machine(seconds: float) -> str:
    """Describe the run in one line."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{system}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes"


def _chosen(cases: Mapping[str, Case], options: argparse.Namespace) -> dict[str, Case]:
    return {key: case for key, case in cases.items() if options.rows is None or key in options.rows}


def _register(directory: Path, count: int, progress: Progress) -> site.Registered:
    progress(f"registering {count} devices")
    return site.register(directory, LIVE_DEVICES + count)


def _new_devices(case: Case) -> int:
    return case.devices + (case.fault.wave_devices if case.fault else 0)


def _measure(row: Row, progress: Progress) -> Outcome:
    progress(f"{row.case.name}, instances: {len(row.site.ports)}")
    outcome = asyncio.run(measure(row, progress))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in outcome.processor_shares.items())
    progress(f"{row.case.name}: processor time of {shares}; devices late by {outcome.late_ms:.0f} ms at most")
    for text in [*outcome.broken_promises(), *outcome.tally.samples]:
        progress(f"{row.case.name}: {text}")
    return outcome


if __name__ == "__main__":
    main()
