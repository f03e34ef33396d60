"""``python -m tests.benchmarks.strangers``: what requests that fail to authenticate cost devices with the right key.

One instance and Valkey with ``appendfsync always``, as processes. Devices request their live tokens at a steady rate.
In every second run 500 requests a second beside theirs fail: of unknown client IDs with signed assertions, or with
wrong keys under the devices' own client IDs. The ratio is how much longer the devices then wait: that of the medians of
two runs, one after the other. It must be at most 2, and no device may be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from app.logs import configure_logging
from app.settings import Settings
from tests import processes
from tests.benchmarks import site, worker
from tests.benchmarks.meter import on_core, processor_s
from tests.benchmarks.steady import KINDS

DEVICES: Final = 100
RATE: Final = 300
FAILING_RATE: Final = 500
"""Requests a second."""

MAX_RATIO: Final = 2.0

HEAD: Final = (
    f"{'':20}{'p50 alone':>11}{'beside':>11}{'ratio':>7}{'of pairs':>15}{'µs right':>11}{'failing':>9}  answers"
)

Result = Mapping[str, Any]


def main() -> None:
    """Run the benchmark and print the table; exits with 1 if the promise is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.strangers", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {'; '.join(KINDS)}")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of runs for each kind (default 10)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run (default 2)")
    options = parser.parse_args()
    if unknown := set(options.kinds) - KINDS.keys():
        parser.error(f"{', '.join(unknown)}: use {'; '.join(KINDS)}")
    configure_logging("warning")
    print(HEAD)
    rows = []
    with tempfile.TemporaryDirectory(prefix="strangers-") as state, contextlib.ExitStack() as stack:
        instance = start(stack, Path(state))
        for kind in options.kinds or KINDS:
            rows.append(instance.measure(kind, pairs=options.pairs, seconds=options.seconds))
            print(rows[-1], flush=True)
    sys.exit(0 if all(row.holds for row in rows) else 1)


@dataclass(frozen=True)
class Row:
    """What was measured of one kind of failure: pairs of runs, without and with it."""

    kind: str
    pairs: list[tuple[Result, Result]]

    @property
    def ratios(self) -> list[float]:
        """How many times as long as alone the devices wait, for each pair."""
        return [beside["p50_ms"] / alone["p50_ms"] for alone, beside in self.pairs]

    @property
    def wrong(self) -> list[str]:
        """The answers to devices that were not a token."""
        return [each for pair in self.pairs for result in pair for each in result["wrong"]]

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return statistics.median(self.ratios) <= MAX_RATIO and not self.wrong

    @property
    def right_us(self) -> float:
        """The instance's processor time for a request with the right key, in µs."""
        return self._median(lambda alone, _: alone["processor_s"] / alone["sent"] * 1e6)

    @property
    def failing_us(self) -> float:
        """The instance's processor time for a request that fails, in µs: what it used more than alone."""
        return self._median(
            lambda alone, beside: (beside["processor_s"] - alone["processor_s"]) / sum(beside["failing"].values()) * 1e6
        )

    def _median(self, value: Callable[[Result, Result], float]) -> float:
        return statistics.median(value(*pair) for pair in self.pairs)

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        answers = ", ".join(f"{status}: {count}" for status, count in self.pairs[-1][1]["failing"].items())
        return (
            f"{self.kind:20}{self._median(lambda alone, _: alone['p50_ms']):>8.2f} ms"
            f"{self._median(lambda _, beside: beside['p50_ms']):>8.2f} ms{statistics.median(self.ratios):>7.2f}"
            f"{f'{low:.2f} to {high:.2f}':>15}{self.right_us:>11.0f}{self.failing_us:>9.0f}  {answers}"
            f"{f', {len(self.wrong)} devices refused: {self.wrong[0]}' if self.wrong else ''}"
        )


@dataclass(frozen=True)
class Instance:
    """A running instance, and the process that sends requests to it."""

    port: int
    issuer: str
    pid: int
    devices: Path
    sender: worker.Worker

    def measure(self, kind: str, *, pairs: int, seconds: float) -> Row:
        """Measure one kind of failure, after a run to warm up."""
        self._run(kind, seconds)
        return Row(kind, [(self._run(None, seconds), self._run(kind, seconds)) for _ in range(pairs)])

    def _run(self, kind: str | None, seconds: float) -> Result:
        before_s = processor_s(self.pid)
        result = self.sender.do(
            port=self.port,
            issuer=self.issuer,
            devices=str(self.devices),
            seconds=seconds,
            rate=RATE,
            failing=kind,
            failing_rate=FAILING_RATE,
        )
        return {**result, "sent": int(RATE * seconds), "processor_s": processor_s(self.pid) - before_s}


def start(stack: contextlib.ExitStack, state: Path) -> Instance:
    """Start the processes, and issue each device its token."""
    port, cloud, cloud_tls = processes.free_ports(3)
    certificate, _ = site.write_certificates(state)
    with on_core(site.OTHERS):
        redis_url = stack.enter_context(processes.running_valkey(state))
        site.start(stack, state, cloud, "tests.benchmarks.cloud", json.dumps([cloud, cloud_tls, str(certificate)]))
        sender = stack.enter_context(worker.started("tests.benchmarks.steady"))
    env = site.settings(redis_url, f"http://127.0.0.1:{cloud}", port) | {"TRUSTED_PROXIES": "127.0.0.1"}
    registered = asyncio.run(site.register(Settings.load(env), DEVICES))
    with on_core(site.MEASURED):
        pid = site.start(stack, state, port, "app", "serve", env=env)
    asyncio.run(site.issue(port, registered, redis_url))
    devices = state / "devices.json"
    devices.write_text(json.dumps(registered), encoding="utf-8")
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("appendfsync")["appendfsync"] == "always"
    return Instance(port, env["ISSUER_URL"], pid, devices, sender)


if __name__ == "__main__":
    main()
