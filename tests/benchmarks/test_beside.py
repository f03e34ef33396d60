from __future__ import annotations

from pathlib import Path

import uvloop

from tests.benchmarks import beside


def test_four_exports_and_searches_take_no_more_than_their_share_of_an_instance(tmp_path: Path) -> None:
    """By processor time of a real process: a fifth of a core more than token requests alone; no device is refused.

    How much longer devices wait depends on the machine: ``python -m tests.benchmarks.beside`` measures that.
    """
    with beside.running(tmp_path, entries=2_000) as scene:
        for name in ("exports", "searches"):
            row = uvloop.run(beside.measure(scene, name, rate=50, seconds=1, pairs=1, settle_s=0))
            [(alone, busy)] = row.pairs
            assert busy["cores"]["instance"] - alone["cores"]["instance"] < 0.4, row
            assert row.done["200"], row
            assert row.done.keys() <= {"200", "bytes"}, row
