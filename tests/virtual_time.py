"""An event loop whose time passes only while nothing is ready, so that a test of minutes takes a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never sleeps: where it would, its time moves on by so much. ``use`` is work that takes time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used_s = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def use(self, seconds: float) -> None:
        """Take so much time and processor time, as a step does that computes something."""
        self.now += seconds
        self.used_s += seconds


class _Selector(selectors.DefaultSelector):
    """Finds what is ready, and instead of waiting moves the loop's time on."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is left to wait for: the test would hang")
            self._loop.now += timeout
        return ready


def run_virtual(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run ``work`` in a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def virtual_loop() -> VirtualLoop:
    """Return the virtual loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
