"""Measure the processor time of other processes, and choose their cores."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

CORES: tuple[int, int]
"""The core of the measured process, and that of all others; the same one on a machine with one core."""
_allowed = sorted(os.sched_getaffinity(0))
CORES = _allowed[0], _allowed[-1]


def processor_s(pid: int) -> float:
    """Return the user and system seconds that a process and its children have used, all threads, in nanosecond steps.

    Linux; the clock is that of ``clock_getcpuclockid(3)``. ``/proc/PID/stat`` has the same in steps of 10 ms.
    """
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
    ]
    return time.clock_gettime(~pid << 3 | 2) + sum(map(processor_s, children))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run every process that is started in this block only on ``core``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
