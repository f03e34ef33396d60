"""``python -m tests.simulation [--devices N] [--quick]``: how a whole fleet fares after a storm and after an outage."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Final

from app.logs import configure_logging
from tests.processes import ROOT
from tests.simulation import plot, report
from tests.simulation.fleet import Progress, simulate
from tests.simulation.scenario import Scenario

DEVICES: Final = (10_000, 1_000_000)
QUICK_DEVICES: Final = 2_000
LIMITS: Final = (100.0, 500.0)
OUTAGE_S: Final = 3600.0
QUICK_OUTAGE_S: Final = 60.0
OTHER_DEMAND: Final = (0.0, 0.2)
PRINT_EVERY_S: Final = 5.0


def main() -> None:
    """Simulate, print a table, draw a picture; exits with 1 if a target was missed."""
    options = parse(sys.argv[1:])
    configure_logging("error")
    outcomes = [simulate(scenario, progress_of(scenario)) for scenario in scenarios(options)]
    print(report.table(outcomes))
    options.plot.write_text(plot.svg(outcomes), encoding="utf-8")
    missed = [text for outcome in outcomes for text in outcome.missed()]
    print(*missed, sep="\n", file=sys.stderr)
    sys.exit(bool(missed))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the options; exits with one line if one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulates a fleet of devices.")
    parser.add_argument("--devices", type=int, metavar="N", help="so many, instead of 10,000 and 1,000,000")
    parser.add_argument("--quick", action="store_true", help="2,000 devices and an outage of a minute: in a minute")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", default=ROOT / "deploy" / "storm.svg", help="picture")
    options = parser.parse_args(arguments)
    if options.devices is not None and options.devices < 1:
        parser.error(f"--devices {options.devices}: give a number of devices of at least 1")
    if not options.plot.absolute().parent.is_dir():
        parser.error(f"--plot {options.plot}: its directory is not there")
    return options


def scenarios(options: argparse.Namespace) -> list[Scenario]:
    """Return what to simulate."""
    devices = (options.devices,) if options.devices else (QUICK_DEVICES,) if options.quick else DEVICES
    outage_s = QUICK_OUTAGE_S if options.quick else OUTAGE_S
    each = product((0.0, outage_s), devices, LIMITS, OTHER_DEMAND)
    return [Scenario(count, limit, outage, other) for outage, count, limit, other in each]


def progress_of(scenario: Scenario) -> Progress:
    """Return what prints every few seconds how far a simulation is."""
    began = printed = time.monotonic()

    def progress(now: float, left: int) -> None:
        nonlocal printed
        real = time.monotonic()
        if real >= printed + PRINT_EVERY_S or not left:
            printed = real
            done = 1 - left / scenario.devices
            state = f"{done:.0%} of devices done, {report.duration(now)} simulated"
            print(f"[{real - began:5.0f} s] {scenario}: {state}", file=sys.stderr, flush=True)

    return progress


if __name__ == "__main__":
    main()
