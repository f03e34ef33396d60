from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.takeback import take_back


def test_a_small_fleet_is_taken_back(tmp_path: Path) -> None:
    """One command revokes a role with progress and estimate; here and at the cloud exactly its tokens are revoked.

    The full size, with instances killed on the way, is ``python -m tests.benchmarks.takeback``.
    """
    seen = take_back(tmp_path / "state", tokens=200, kills=0, qps=300)
    assert seen.holds, seen
    assert seen.confirmed == seen.revoked_at_the_cloud == 200
    assert seen.client_cut_after_s < seen.revoked_in_s + 1
    assert json.loads(json.dumps(asdict(seen)))["equal"] is True
    assert "200 as revoked: the same ones" in str(seen)
