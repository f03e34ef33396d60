"""``python -m tests.benchmarks [--quick] [--json FILE] [--plot FILE.svg]``: runs the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from app.logs import configure_logging
from tests.benchmarks import measures, plot, report, site


def main() -> None:
    """Run the benchmarks."""
    options = parse(sys.argv[1:])
    configure_logging("warning")
    began = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {text}", file=sys.stderr, flush=True)

    size = measures.QUICK if options.quick else measures.FULL
    with tempfile.TemporaryDirectory(prefix="bench-") as state:
        progress(f"starting Valkey, the cloud and the servers; {size.devices} devices get a token each")
        with site.running(Path(state), devices=size.devices) as running:
            progress(f"ready: Redis holds {running.weight.used_memory:.0f} bytes a live token")
            taken = measures.measure(running, size, progress)
            machine = report.machine(running.redis_version)
    print(report.text(taken, running.weight, size, machine))
    if options.json:
        content = json.dumps(report.as_json(taken, running.weight, machine), indent=1)
        options.json.write_text(content + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot.svg(taken, machine), encoding="utf-8")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the options; exits with one line if one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measures the server.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a picture")
    options = parser.parse_args(arguments)
    if options.plot and options.plot.suffix != ".svg":
        parser.error(f"--plot {options.plot}: the picture is an SVG, so name it FILE.svg")
    for path in (options.json, options.plot):
        if path and not os.access(path.absolute().parent, os.W_OK):
            parser.error(f"{path}: its directory is not there, or cannot be written to")
    if sys.platform != "linux":
        parser.error("processor time is measured by Linux's clocks: run it there")
    return options


if __name__ == "__main__":
    main()
