"""How much of an instance pages, lists and exports may take."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from app.errors import Unavailable
from app.web.caller_limits import PAGES, CallerLimiter, CallerLimits, Limit


async def test_nobody_holds_more_than_their_places_and_all_together_no_more_than_there_are() -> None:
    """Whoever asks for many pages at once waits for themselves, and leaves the instance to the devices."""
    pages, held, most = CallerLimits().pages, Counter[str](), Counter[str]()

    async def visit(name: str) -> None:
        async with pages.place(name):
            for key in (name, "all"):
                held[key] += 1
                most[key] = max(most[key], held[key])
            for _ in range(3):
                await asyncio.sleep(0)
            held.subtract((name, "all"))

    names = [f"v{number}" for number in range(5)]
    await asyncio.gather(*(visit(name) for name in names for _ in range(10)))
    assert most.pop("all") == PAGES.in_all
    assert most == dict.fromkeys(names, PAGES.of_one)
    assert not any(held.values())


async def test_who_gives_up_waiting_leaves_no_place_taken() -> None:
    """A browser that goes away, waiting or served, makes room for the next."""
    pages = CallerLimits().pages

    async def stay() -> None:
        async with pages.place("ada"):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(stay()) for _ in range(PAGES.of_one * 3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(1), pages.place("ada"), pages.place("ada"):
        pass


async def test_where_too_many_wait_one_is_refused_with_the_cure() -> None:
    """Of one caller, and of all; who was refused may come back once another has left."""
    limiter = CallerLimiter(Limit(in_all=2, of_one=1, waiting=3, waiting_of_one=2), CallerLimits().exports.busy)
    first = await limiter.take_place("ada")
    waiting = [asyncio.create_task(limiter.take_place("ada")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="try again when one of them has ended") as caught:
        await limiter.take_place("ada")
    assert caught.value.retry_after_s == 10
    other = await limiter.take_place("bob")
    waiting.append(asyncio.create_task(limiter.take_place("bob")))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await limiter.take_place("eve")
    first.leave()
    first.leave()
    (await waiting[0]).leave()
    other.leave()
    (await waiting[2]).leave()
    (await waiting[1]).leave()
    (await limiter.take_place("eve")).leave()
