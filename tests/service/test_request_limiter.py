from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.errors import InvalidRequest
from app.service import request_limiter
from app.service.request_limiter import MAX_CONCURRENT, MIN_PURGE, RequestLimiter
from tests.virtual_time import run_virtual, virtual_loop
from tests.waiting import until

NEVER_S = 1000.0


def stays() -> bool:
    """Say that a client is still there."""
    return False


class Requests:
    """Requests of a limiter, each of which stays until it is ended."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self.limiter = limiter
        self.let_in: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}

    def start(self, number: int, is_gone: Callable[[], bool] = stays) -> asyncio.Task[None]:
        """Have another request come."""
        self.ends[number] = asyncio.Event()
        return asyncio.create_task(self._run(number, is_gone))

    async def _run(self, number: int, is_gone: Callable[[], bool]) -> None:
        async with self.limiter.turn(is_gone):
            self.let_in.append(number)
            await self.ends[number].wait()

    async def settle(self) -> list[int]:
        """Return which were let in, once every task has done what it can."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.let_in


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Requests of which two are worked on at a time; it is not looked whether they proceed."""
    monkeypatch.setattr(request_limiter, "LOOK_EVERY_S", NEVER_S)
    return Requests(RequestLimiter(most=2))


async def finish(*tasks: asyncio.Task[None]) -> None:
    """Cancel what a test leaves."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_bounded_number_is_let_in_and_the_others_follow_in_order(requests: Requests) -> None:
    """Whoever ends makes room for the one that has waited longest; one that comes then does not overtake."""
    tasks = [requests.start(number) for number in range(5)]
    assert await requests.settle() == [0, 1]
    assert requests.limiter.waiting == 3
    requests.ends[1].set()
    tasks.append(requests.start(5))
    assert await requests.settle() == [0, 1, 2]
    for number in (0, 2, 3, 4):
        requests.ends[number].set()
    assert await requests.settle() == [0, 1, 2, 3, 4, 5]
    await finish(*tasks)


async def test_a_request_that_only_waits_is_not_counted(requests: Requests) -> None:
    """While it waits another is let in; then it goes on at once, and the next is let in when two have ended."""
    cloud = asyncio.Event()
    went_on = asyncio.Event()

    async def apply() -> None:
        async with requests.limiter.turn(stays):
            with requests.limiter.suspended():
                await cloud.wait()
            went_on.set()
            await asyncio.Event().wait()

    applying = asyncio.create_task(apply())
    tasks = [requests.start(number) for number in range(3)]
    assert await requests.settle() == [0, 1]
    cloud.set()
    await went_on.wait()
    requests.ends[0].set()
    assert await requests.settle() == [0, 1]
    requests.ends[1].set()
    assert await requests.settle() == [0, 1, 2]
    await finish(applying, *tasks)


async def test_a_client_that_has_gone_away_takes_no_turn(requests: Requests) -> None:
    """Its request ends when its turn would come, and the next one is let in instead."""
    gone = False
    tasks = [requests.start(0), requests.start(1), requests.start(2, lambda: gone), requests.start(3)]
    assert await requests.settle() == [0, 1]
    gone = True
    requests.ends[0].set()
    assert await requests.settle() == [0, 1, 3]
    with pytest.raises(InvalidRequest, match="the client closed the connection"):
        await tasks[2]
    await finish(*tasks)


async def test_clients_that_come_and_go_do_not_add_up(requests: Requests) -> None:
    """However many connect and go away while nothing proceeds, few are remembered."""
    tasks = [requests.start(0), requests.start(1), requests.start(2)]
    await requests.settle()
    tasks += [requests.start(number, lambda: True) for number in range(3, 3 + 10 * MIN_PURGE)]
    await requests.settle()
    assert requests.limiter.waiting <= MIN_PURGE
    requests.ends[0].set()
    assert await requests.settle() == [0, 1, 2]
    await finish(*tasks)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_request_takes_no_turn_with_it(requests: Requests, turns: int) -> None:
    """Whether it is cancelled before its turn comes, just as it comes, or after it: the next one is let in."""
    tasks = [requests.start(number) for number in range(4)]
    await requests.settle()
    requests.ends[0].set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await finish(tasks[2])
    assert set(await requests.settle()) - {2} == {0, 1, 3}
    requests.ends[1].set()
    requests.ends[3].set()
    tasks += [requests.start(4), requests.start(5), requests.start(6)]
    assert set(await requests.settle()) - {2} == {0, 1, 3, 4, 5}
    await finish(*tasks)


async def test_requests_that_do_not_proceed_do_not_hold_up_the_others(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Redis is slow or away, more are let in until each is answered; when it is back the bound holds again."""
    monkeypatch.setattr(request_limiter, "LOOK_EVERY_S", 0.001)
    tasks = [requests.start(number) for number in range(11)]

    async def all_in() -> bool:
        return len(requests.let_in) == 11

    await until(all_in, "every request let in")
    for end in requests.ends.values():
        end.set()
    await asyncio.gather(*tasks)
    monkeypatch.setattr(request_limiter, "LOOK_EVERY_S", NEVER_S)
    requests.let_in.clear()
    tasks = [requests.start(number) for number in range(20, 24)]
    assert await requests.settle() == [20, 21]
    requests.ends[20].set()
    assert await requests.settle() == [20, 21, 22]
    await finish(*tasks)


async def most_at_a_time(*, work_s: float, cloud_s: float, count: int = 400) -> int:
    """Return how many requests are worked on at a time at most, where each takes so much processor time."""
    limiter, loop = RequestLimiter(MAX_CONCURRENT), virtual_loop()
    at_a_time = most = 0

    async def work() -> None:
        nonlocal at_a_time, most
        async with limiter.turn(stays):
            at_a_time += 1
            for _ in range(3):
                loop.use(work_s / 3)
                most = max(most, at_a_time)
                await asyncio.sleep(0.001)
            at_a_time -= 1
            with limiter.suspended():
                await asyncio.sleep(cloud_s)

    await asyncio.gather(*(work() for _ in range(count)))
    return most


@pytest.mark.parametrize("work_s", [0.0005, 0.001, 0.0015, 0.002])
def test_a_slow_machine_works_on_no_more_at_a_time(work_s: float) -> None:
    """Requests that end slowly proceed: with more of them at a time each would take longer still."""
    assert run_virtual(most_at_a_time(work_s=work_s, cloud_s=0)) == MAX_CONCURRENT


@pytest.mark.parametrize("work_s", [0.0005, 0.001, 0.002])
def test_requests_that_begin_to_wait_for_the_cloud_proceed(work_s: float) -> None:
    """In a storm few end for seconds, but the processor is busy with those that get as far as the cloud."""
    assert run_virtual(most_at_a_time(work_s=work_s, cloud_s=5)) == MAX_CONCURRENT
