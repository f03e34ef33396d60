"""How much of an instance its pages may take."""

from __future__ import annotations

import asyncio
from collections import Counter

from app.model.operators import Operator, OperatorRole
from app.web.console.page_limiter import PAGES_AT_ONCE, PAGES_OF_ONE_AT_ONCE, PageLimiter


async def test_nobody_holds_more_than_their_places_and_all_together_no_more_than_there_are() -> None:
    """Whoever asks for many pages at once waits for themselves, and leaves the instance to the devices."""
    places, held, most = PageLimiter(), Counter[str](), Counter[str]()

    async def visit(name: str) -> None:
        async with places.limit(Operator(name, OperatorRole.VIEWER, 0)):
            for key in (name, "all"):
                held[key] += 1
                most[key] = max(most[key], held[key])
            for _ in range(3):
                await asyncio.sleep(0)
            held.subtract((name, "all"))

    names = [f"v{number}" for number in range(5)]
    await asyncio.gather(*(visit(name) for name in names for _ in range(10)))
    assert most.pop("all") == PAGES_AT_ONCE
    assert most == dict.fromkeys(names, PAGES_OF_ONE_AT_ONCE)
    assert not any(held.values())


async def test_who_gives_up_waiting_leaves_no_place_taken() -> None:
    """A browser that goes away, waiting or served, makes room for the next."""
    places, ada = PageLimiter(), Operator("ada", OperatorRole.VIEWER, 0)

    async def stay() -> None:
        async with places.limit(ada):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(stay()) for _ in range(PAGES_OF_ONE_AT_ONCE * 3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(1), places.limit(ada), places.limit(ada):
        pass
