from __future__ import annotations

import asyncio

import pytest

from app.tasks import all_of


async def test_steps_go_side_by_side_and_answer_in_order() -> None:
    """Two steps that wait for one another both end, and each result stands at its step's place."""
    met = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await met.wait()
        return name

    async with asyncio.timeout(5):
        assert await all_of([meet("a"), meet("b")]) == ["a", "b"]


async def test_the_first_failure_is_raised_bare_when_the_others_are_over() -> None:
    """Nothing that was begun outlives the failure, and a handler of that error sees it as it is."""
    over = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            over.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("why")

    with pytest.raises(KeyError):
        await all_of([wait(), fail(), wait()])
    assert over.is_set()


async def test_who_gives_up_takes_the_steps_along() -> None:
    """A cancelled caller leaves no step running."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()

    caller = asyncio.create_task(all_of([wait()]))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert over.is_set()
