"""What runs within a share of the loop takes no more of it, and leaves turns to all else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from app import loop_share
from app.loop_share import SLICE_S, LoopShare, in_slices
from tests.virtual_time import run_virtual, virtual_loop

STEP_S = 0.0005


def new_share(share: float = 0.2, *, burst_s: float = 0.0) -> LoopShare:
    """Return a share by the processor time of the virtual loop."""
    loop = virtual_loop()
    return LoopShare(share, burst_s=burst_s, processor_s=lambda: loop.used_s)


def work(steps: int) -> Callable[[], Coroutine[Any, Any, str]]:
    """Return work of so many steps."""
    return partial(compute, steps)


async def compute(steps: int) -> str:
    """Compute for so many steps."""
    for _ in range(steps):
        virtual_loop().use(STEP_S)
        await asyncio.sleep(0)
    return "done"


def test_all_work_together_takes_no_more_than_its_share() -> None:
    """Four coroutines of 1 s of work each take 20 s of a fifth of the loop, whatever they wait for."""

    async def measure() -> tuple[float, float]:
        share, loop = new_share(), virtual_loop()
        began = loop.now
        await asyncio.gather(*(share.run(work(2000)) for _ in range(4)))
        return loop.now - began, loop.used_s

    took_s, used_s = run_virtual(measure())
    assert used_s == pytest.approx(4)
    assert took_s == pytest.approx(20, rel=0.01)


def test_a_short_piece_of_work_after_a_rest_does_not_wait() -> None:
    """Within the burst work goes on at once; what goes beyond is made up for."""

    async def measure() -> tuple[float, float]:
        share, loop = new_share(burst_s=0.02), virtual_loop()
        began = loop.now
        await share.run(work(40))
        short_s = loop.now - began
        await share.run(work(400))
        return short_s, loop.now - began

    short_s, took_s = run_virtual(measure())
    assert short_s == pytest.approx(0.02)
    assert took_s == pytest.approx((0.22 - 0.02) / 0.2, rel=0.02)


def test_others_get_the_loop_between_any_two_steps() -> None:
    """However much work waits, and however large the burst, another task that is ready waits for one step."""

    async def measure() -> float:
        share, loop = new_share(burst_s=100), virtual_loop()
        busy = [asyncio.create_task(share.run(work(100))) for _ in range(10)]
        longest_s = 0.0
        while not all(task.done() for task in busy):
            before = loop.now
            await asyncio.sleep(0)
            longest_s = max(longest_s, loop.now - before)
        return longest_s

    assert run_virtual(measure()) == pytest.approx(STEP_S)


def test_the_work_that_used_least_goes_first() -> None:
    """A page that begins after four exports is done in the time of its own steps; the exports advance equally."""

    async def measure() -> tuple[float, list[int]]:
        share, loop = new_share(), virtual_loop()
        steps = [0] * 4

        async def export(number: int) -> None:
            while True:
                loop.use(STEP_S)
                steps[number] += 1
                await asyncio.sleep(0)

        exports = [asyncio.create_task(share.run(partial(export, number))) for number in range(4)]
        await asyncio.sleep(10)
        began = loop.now
        await share.run(work(20))
        took_s = loop.now - began
        for each in exports:
            each.cancel()
        return took_s, steps

    took_s, steps = run_virtual(measure())
    assert took_s <= 22 * STEP_S / 0.2
    assert max(steps) - min(steps) <= 1


def test_what_is_only_counted_does_not_wait_and_others_wait_for_it() -> None:
    """A connection is read at once, and whose answers it reads pays for that."""

    async def measure() -> tuple[float, float]:
        share, loop = new_share(), virtual_loop()
        began = loop.now
        await share.count(work(200))
        counted_s = loop.now - began
        await share.run(work(1))
        return counted_s, loop.now - began

    counted_s, took_s = run_virtual(measure())
    assert counted_s == pytest.approx(0.1)
    assert took_s == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("pauses", [0, 1, 5])
def test_work_returns_raises_and_waits_as_without_a_share(pauses: int) -> None:
    """Its result, its errors, what it awaits, a time limit inside it and its context are those of its own."""

    async def fail() -> None:
        for _ in range(pauses):
            await asyncio.sleep(1)
        raise KeyError("its own")

    async def wait() -> str:
        try:
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        return await asyncio.wait_for(asyncio.to_thread(lambda: "from a thread"), None)

    async def measure() -> None:
        share = new_share()
        assert await share.run(work(pauses)) == "done"
        with pytest.raises(KeyError, match="its own"):
            await share.run(fail)

    async def real() -> str:
        return await LoopShare(0.2, burst_s=0).run(wait)

    run_virtual(measure())
    if pauses == 0:
        assert asyncio.run(real()) == "from a thread"


@pytest.mark.parametrize("burst_s", [0, 100])
@pytest.mark.parametrize("turns", range(12))
def test_cancelled_work_ends_at_once_and_leaves_no_turn_taken(turns: int, burst_s: float) -> None:
    """Before its first step, while it waits for a turn, as the turn comes or in the middle: others go on."""

    async def measure() -> list[str]:
        share, ended = new_share(burst_s=burst_s), []

        async def long() -> None:
            try:
                await compute(1000)
            finally:
                ended.append("cleaned up")

        others = asyncio.gather(*(share.run(work(20)) for _ in range(2)))
        task = asyncio.create_task(share.run(long))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        before = virtual_loop().now
        with pytest.raises(asyncio.CancelledError):
            await task
        assert virtual_loop().now - before <= 2 * STEP_S
        await others
        assert share.waiting == 0
        ended.append(await share.run(work(3)))
        return ended

    ended = run_virtual(measure())
    assert ended in (["done"], ["cleaned up", "done"])


def test_cancelled_work_cleans_up_in_its_own_time() -> None:
    """What it does after it was cancelled is within the share again."""

    async def measure() -> float:
        share = new_share()

        async def long() -> None:
            try:
                await asyncio.sleep(10)
            finally:
                await compute(100)

        task = asyncio.create_task(share.run(long))
        await asyncio.sleep(1)
        task.cancel()
        before = virtual_loop().now
        with pytest.raises(asyncio.CancelledError):
            await task
        return virtual_loop().now - before

    assert run_virtual(measure()) == pytest.approx(0.25, rel=0.02)


async def test_others_get_the_loop_at_the_end_of_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made lazily is made in slices, in its order; several short loops are as one long one."""
    now_s, turns = time.perf_counter() + 1, 0
    monkeypatch.setattr(loop_share, "perf_counter", lambda: now_s)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def numbers(first: int) -> Iterator[int]:
        nonlocal now_s
        for number in range(first, first + 3):
            now_s += SLICE_S / 10
            yield number

    task = asyncio.create_task(other())
    made = [number for first in range(0, 300, 3) async for number in in_slices(numbers(first))]
    task.cancel()
    assert made == list(range(300))
    assert 28 <= turns <= 31
