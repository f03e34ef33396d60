from __future__ import annotations

import pytest

from app.cli.times import shown_span


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (4080, "68 min"), (7200, "2.0 h"), (86_400, "24.0 h")],
)
def test_a_span_is_shown_in_its_unit(seconds: float, shown: str) -> None:
    """As people say it, with no more digits than it is worth."""
    assert shown_span(seconds) == shown
