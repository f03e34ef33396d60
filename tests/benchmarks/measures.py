"""The measures. A ratio is measured in pairs of runs, one after the other, A B A B.

Other load on the machine affects both runs of a pair. The ratio is computed for each pair, and its spread is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.benchmarks.site import Site

CONCURRENCY: Final = 8
"""Concurrent requests: enough to keep a server busy, few enough that the latency is meaningful."""

Result = Mapping[str, Any]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The size of a benchmark: pairs, requests per run of the servers and of the clients, devices."""

    pairs: int
    token: int
    introspect: int
    http: int
    tls: int
    devices: int


QUICK: Final = Size(pairs=4, token=1200, introspect=500, http=200, tls=40, devices=500)
FULL: Final = Size(pairs=12, token=4000, introspect=1500, http=600, tls=80, devices=2000)


@dataclass(frozen=True)
class Measure:
    """One measure, of ours and the other in turn."""

    name: str
    what: str
    other: str
    pairs: tuple[tuple[Result, Result], ...]

    @property
    def ratios(self) -> list[float]:
        """The other's processor time divided by ours, for each pair. Above 1, ours takes less."""
        return [processor_us(other) / processor_us(ours) for ours, other in self.pairs]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    def of(self, side: int, value: Callable[[Result], float]) -> list[float]:
        """Return a value of each run of one side; side 0 is ours."""
        return [value(pair[side]) for pair in self.pairs]


def processor_us(result: Result) -> float:
    """Processor time per request, in µs."""
    return float(result["processor_us"]["server"])


def rate(result: Result) -> float:
    """Requests per second."""
    return float(result["requests"] / result["seconds"])


def measure(site: Site, size: Size, progress: Progress) -> list[Measure]:
    """Measure all ratios."""
    return [
        servers(site, "token", "/oauth/token", size.token, size.pairs, progress),
        servers(site, "introspect", "/oauth/introspect", size.introspect, size.pairs, progress),
        clients(site, "HTTP", size.http, size.pairs, progress),
        clients(site, "TLS", size.tls, size.pairs, progress),
    ]


def servers(site: Site, name: str, path: str, count: int, pairs: int, progress: Progress) -> Measure:
    """Measure an endpoint of our server and of the bare one."""

    def run(server: str, count: int) -> Result:
        return site.load.do(
            port=site.ports[server],
            path=path,
            devices=str(site.devices),
            count=count,
            concurrency=CONCURRENCY,
            meters={"server": site.pids[server], "redis": site.pids["redis"]},
        )

    return in_pairs(name, f"POST {path}", "floor", run, count, pairs, progress)


def clients(site: Site, name: str, count: int, pairs: int, progress: Progress) -> Measure:
    """Measure ApplyToken by our client and by the official SDK."""

    def run(client: str, count: int) -> Result:
        worker = site.clients["ours" if client == "ours" else "sdk"]
        return worker.do(url=site.clouds[name], ca=str(site.ca), count=count, concurrency=CONCURRENCY)

    return in_pairs(name, f"ApplyToken over {name}", "SDK", run, count, pairs, progress)


def in_pairs(
    name: str, what: str, other: str, run: Callable[[str, int], Result], count: int, pairs: int, progress: Progress
) -> Measure:
    """Run both in turn, after a shorter warm-up run of each."""
    for side in ("ours", other):
        run(side, max(CONCURRENCY, count // 4))
    taken: list[tuple[Result, Result]] = []
    for number in range(1, pairs + 1):
        pair = run("ours", count), run(other, count)
        taken.append(pair)
        ours_us, other_us = map(processor_us, pair)
        progress(
            f"{name} {number}/{pairs}: ours {ours_us:.0f} µs, {other} {other_us:.0f} µs, ratio {other_us / ours_us:.2f}"
        )
    return Measure(name, what, other, tuple(taken))
