from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import processes
from tests.benchmarks import measures, plot, report
from tests.benchmarks.measures import Measure, Size
from tests.benchmarks.meter import processor_s
from tests.benchmarks.site import Site
from tests.benchmarks.weight import Weight

TINY = Size(pairs=2, token=24, introspect=16, http=16, tls=8, devices=4)


def result(processor_us: float, **more: float) -> measures.Result:
    """Return the result of a run."""
    used = {"server": processor_us, **{name: value for name, value in more.items() if name == "redis"}}
    return {"requests": 100, "seconds": 0.5, "p50_ms": 1.0, "p99_ms": 2.0, "processor_us": used}


def test_a_measurement_from_end_to_end(running: Site) -> None:
    """All measures are taken, every response is right, and text, JSON and plot show the results."""
    said: list[str] = []
    taken = measures.measure(running, TINY, said.append)
    assert [measure.name for measure in taken] == ["token", "introspect", "HTTP", "TLS"]
    assert len(said) == 4 * TINY.pairs
    for measure in taken:
        assert all(10 < measures.processor_us(each) < 1_000_000 for pair in measure.pairs for each in pair)
    machine = report.machine(running.redis_version)
    text = report.text(taken, running.weight, TINY, machine)
    assert "token:      floor ÷ ours 0." in text or "token:      floor ÷ ours 1." in text
    assert [line.split(":")[0] for line in text.splitlines()[-4:]] == ["token", "introspect", "HTTP", "TLS"]
    content = json.loads(json.dumps(report.as_json(taken, running.weight, machine)))
    assert len(content["measures"]["TLS"]["pairs"]) == TINY.pairs
    assert ET.fromstring(plot.svg(taken, machine)).tag.endswith("svg")  # noqa: S314 (our own)


def test_a_token_is_weighed(running: Site) -> None:
    """The size of a token is reported, and that of each of its keys."""
    assert running.weight.tokens == 3
    assert set(running.weight.keys) == {
        "record",
        "look-up",
        "device's index",
        "role's index",
        "shard's index",
        "grant pointer",
        "device's hour",
    }
    assert 500 < sum(running.weight.keys.values()) < 10_000


def test_a_ratio_is_that_of_pairs() -> None:
    """A machine that is slow during one pair changes no ratio; the median is reported with its range."""
    measure = Measure(
        "token",
        "POST /oauth/token",
        "floor",
        (
            (result(200, redis=5), result(100, redis=5)),
            (result(800, redis=5), result(400, redis=5)),
            (result(200, redis=5), result(150, redis=5)),
        ),
    )
    assert measure.ratios == [0.5, 0.5, 0.75]
    text = report.text([measure], Weight(1, 1.0, {}), TINY, "a machine")
    assert text.splitlines()[-1] == "token:      floor ÷ ours 0.50   (pairs 0.50 to 0.75)"


def test_processor_time_counts_children() -> None:
    """The processor time of a server's workers counts as the server's; waiting does not count."""
    burn = "import time\nwhile time.process_time() < 0.1: pass\n"
    parent = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn + 'time.sleep(60)'!r}]).wait()"
    with processes.running([sys.executable, "-c", parent]) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        processes.wait_until(children.read_text, "the child")
        child = int(children.read_text())
        processes.wait_until(lambda: processor_s(child) >= 0.1, "the child's time")
        assert processor_s(process.pid) > processor_s(child)
        processes.wait_until(lambda: Path(f"/proc/{child}/stat").read_text().split()[2] == "S", "the child's sleep")
        used_s, began_s = processor_s(process.pid), time.monotonic()
        processes.wait_until(lambda: time.monotonic() > began_s + 0.05, "some time")
        assert processor_s(process.pid) - used_s < 0.04


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--plot", "a.png"], "name it FILE.svg"), (["--json", "/nowhere/a.json"], "its directory is not there")],
)
def test_a_wrong_option_ends_at_once(options: list[str], complaint: str) -> None:
    """A file that cannot be written is refused before the benchmark starts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *options],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
