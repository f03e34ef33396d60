"""Tasks that have an owner: run together, restarted after an error, surely ended; and threads for what blocks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import structlog

RESTART_AFTER_S: Final = 1.0

_Result = TypeVar("_Result")

log = structlog.get_logger(__name__)


async def end(tasks: Iterable[asyncio.Task[Any]], *, again_after_s: float = 0.1) -> None:
    """Cancel ``tasks`` and wait until they are done; each has logged its own errors.

    A cancellation can be lost: ``asyncio.wait_for`` of Python 3.11, which libraries use, swallows one that comes in the
    same turn as its result (cpython#86296). So it is repeated; ``again_after_s`` leaves a task time to clean up.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=again_after_s)
        for task in done:
            if not task.cancelled():
                task.exception()


async def all_of(steps: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Run steps concurrently and return what each returned, in order.

    When one fails, its error is raised as it is, once the others are cancelled and done.
    """
    steps = list(steps)
    if len(steps) == 1:
        return [await steps[0]]
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(task for task in tasks if not task.done())


async def in_thread(function: Callable[[], _Result], *, name: str) -> _Result:
    """Run what blocks in a thread of its own, and return or raise as it does.

    A process ends without waiting for it, unlike for those of ``asyncio.to_thread``; so ``function`` must leave nothing
    half done.
    """
    done: concurrent.futures.Future[_Result] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(done)


@asynccontextmanager
async def running(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Own a background task: restarted after an error, cancelled and waited for at the end."""

    async def repeat() -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("background_broken")
            await asyncio.sleep(RESTART_AFTER_S)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        await end([task])
