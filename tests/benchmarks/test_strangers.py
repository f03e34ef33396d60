from __future__ import annotations

import contextlib
from pathlib import Path

from tests.benchmarks import strangers


def test_strangers_cost_little_and_devices_are_served_beside_them(tmp_path: Path) -> None:
    """While 500 requests a second fail, every device gets its token, also one whose own client ID is attacked.

    A failure costs at most as much processor time as a served request, so a flood gains an attacker nothing by failing.
    How much longer devices wait depends on the machine: ``python -m tests.benchmarks.strangers`` measures that.
    """
    with contextlib.ExitStack() as stack:
        instance = strangers.start(stack, tmp_path)
        for kind in ("strangers, RS256", "wrong key, RS256", "wrong secret, Basic"):
            row = instance.measure(kind, pairs=3, seconds=0.5)
            assert not row.wrong, row
            assert row.failing_us < 1.5 * row.right_us, row
            assert all(beside["failing"].keys() <= {"401", "429"} for _, beside in row.pairs)
