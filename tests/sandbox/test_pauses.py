"""How long the sandbox paused, and that it says so."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from app.sandbox.pauses import PauseMeter
from app.tasks import end
from tests.waiting import until


def test_the_longest_pause_is_kept_until_a_reset() -> None:
    """Shorter pauses do not replace it; a reset does."""
    meter = PauseMeter(0.03)
    for pause_s in (0.01, 0.02, 0.015):
        meter.note_pause(pause_s, 100)
    assert meter.describe() == {"longest_pause_ms": 20.0, "max_pause_ms": 30.0, "paused_too_long": False}
    meter.note_pause(0.04, 101)
    meter.note_pause(0.01, 102)
    assert meter.describe() == {"longest_pause_ms": 40.0, "max_pause_ms": 30.0, "paused_too_long": True}
    meter.reset()
    assert meter.longest_s == 0


def test_a_pause_that_is_too_long_is_logged() -> None:
    """The first such pause is logged, one twice as long again, and what waited in the same pause not each."""
    meter = PauseMeter(0.03)
    with capture_logs() as logs:
        for pause_ms in (29, 31, 32, 33, 61, 63, 64):
            meter.note_pause(pause_ms / 1000, 100)
    assert [entry["pause_ms"] for entry in logs] == [31, 63]
    meter.reset()
    with capture_logs() as logs:
        meter.note_pause(0.031, 101)
    assert len(logs) == 1


@pytest.mark.parametrize(("passed_s", "recent_s"), [(0.5, 0.2), (1.1, 0.001)])
def test_a_recent_pause_is_remembered_for_a_second(passed_s: float, recent_s: float) -> None:
    """What is read within a second after a pause may have arrived during it."""
    meter = PauseMeter()
    meter.note_pause(0.2, 100)
    meter.note_pause(0.001, 100 + passed_s)
    assert meter.recent_s == recent_s


async def test_a_pause_without_any_call_is_measured() -> None:
    """The process notices by itself that it was held up."""
    meter = PauseMeter()
    task = asyncio.create_task(meter.measure())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - the pause is what is tested

    async def is_measured() -> bool:
        return meter.longest_s >= 0.15

    await until(is_measured, "the pause to be measured")
    await end([task])
