"""What computes for long leaves the loop its core, and waits in a bounded queue."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from app.errors import Unavailable
from app.model.text import _
from app.worker_threads import NICENESS, WorkerThreads

BUSY = _("too many people are signing in at the moment: try again")


async def test_no_more_run_or_wait_than_allowed_and_each_leaves_its_place() -> None:
    """One runs and one waits; a third is refused until one is done, also if it was cancelled or failed."""
    threads, go_on = WorkerThreads("test", threads=1, most=2, busy=BUSY), threading.Event()
    running = asyncio.create_task(threads.run(go_on.wait))
    waiting = asyncio.create_task(threads.run(lambda: 1 / 0))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many people"):
        await threads.run(int)
    go_on.set()
    assert await running
    with pytest.raises(ZeroDivisionError):
        await waiting
    assert [*await asyncio.gather(threads.run(int), threads.run(int))] == [0, 0]


async def test_cancelled_work_counts_until_it_is_done() -> None:
    """A browser that goes away frees no thread; work that had not started yet never does."""
    threads, started, go_on = WorkerThreads("test", threads=1, most=2, busy=BUSY), threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait()

    running = asyncio.create_task(threads.run(wait))
    waiting = asyncio.create_task(threads.run(lambda: pytest.fail("it was cancelled")))
    await asyncio.to_thread(started.wait)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    next_one = asyncio.create_task(threads.run(int))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await threads.run(int)
    go_on.set()
    assert await next_one == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_the_loop_goes_first() -> None:
    """The thread, and those it starts, have a lower priority than the loop's."""

    def niceness() -> list[int]:
        found = [os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]
        child = threading.Thread(
            target=lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        )
        child.start()
        child.join()
        return found

    threads = WorkerThreads("test", threads=1, most=1, busy=BUSY)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert await threads.run(niceness) == [max(own, NICENESS)] * 2
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
