"""An instance with limits for its connections, on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop
from aiohttp import web

from app.assembly import build
from app.settings import Settings
from app.web.connections import ConnectionLimits
from app.web.shutdown import Runner
from tests.web.sockets.clients import LONG_S, Instance, Start


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test of this folder on both event loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start(settings: Settings) -> AsyncIterator[Start]:
    """A function that starts an instance with some limits; the others are long. It also has two slow addresses."""
    async with AsyncExitStack() as stack:

        async def run(**limits: Any) -> Instance:
            app = build(settings)
            instance = Instance(
                Runner(
                    app,
                    drain_s=0,
                    limits=ConnectionLimits(
                        **({"headers_s": LONG_S, "idle_s": LONG_S, "unread_s": LONG_S, "reserve": 2} | limits)
                    ),
                ),
                asyncio.Event(),
                stack,
            )

            async def hold(_: web.Request) -> web.Response:
                instance.waiting += 1
                await instance.release.wait()
                return web.Response()

            async def send_much(_: web.Request) -> web.Response:
                return web.Response(body=bytes(2**22))

            for path in ("/held", "/admin/held"):
                app.router.add_post(path, hold)
            app.router.add_get("/large", send_much)
            await instance.runner.setup()
            stack.push_async_callback(instance.runner.stop_at_once)
            stack.callback(instance.release.set)
            await web.TCPSite(instance.runner, "127.0.0.1", 0).start()
            return instance

        yield run
