"""Threads for what computes for long: few, apart from all other threads, and behind the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from app.errors import Unavailable
from app.model.text import Text

NICENESS: Final = 15
"""Where both want the same core, a thread of this niceness gets a thirtieth of what the loop's thread gets."""

_Result = TypeVar("_Result")


class WorkerThreads:
    """Threads for one kind of work, with a bounded queue before them. Nothing else waits for them.

    The default executor is for what takes moments: names are resolved there, so no key must be generated in it.
    """

    def __init__(self, name: str, *, threads: int, most: int, busy: Text) -> None:
        """Allow ``most`` pieces of work in progress or waiting; with ``busy`` one more is refused."""
        self._name = name
        self._busy = busy
        self._places = threading.BoundedSemaphore(most)
        self._executor = ThreadPoolExecutor(threads, name, initializer=_go_behind_the_loop)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Run ``work`` in a thread, and return or raise as it does. Raises ``Unavailable`` where too much waits.

        A cancellation ends the waiting; ``work`` that was started goes on, and counts until it is done.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable(self._busy, cause=f"the queue of the {self._name} threads is full")
        done = self._executor.submit(work)
        done.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(done)


def _go_behind_the_loop() -> None:
    """Lower this thread's priority, and that of threads which it starts: Linux has one for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
