"""The sandbox as one thing that is started and stopped: HTTP gateway, controls and MQTT broker on one state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from app.model.secrets import AccessKeySecret
from app.rpc import regions
from app.sandbox.account import Account
from app.sandbox.broker import Broker
from app.sandbox.clock import Clock
from app.sandbox.connection import Connection
from app.sandbox.control import Control
from app.sandbox.faults import Faults
from app.sandbox.gateway import MAX_BODY_BYTES, Gateway
from app.sandbox.kept_groups import Group
from app.sandbox.parents import ParentTopics
from app.sandbox.signin import SignIn
from app.sandbox.state import State
from app.sandbox.wire import Wire


@dataclass(frozen=True, slots=True)
class Config:
    """What a sandbox is started with. Port 0 is any free one."""

    host: str
    port: int
    mqtt_port: int
    database: Path | str
    instance_id: str
    access_keys: Mapping[str, AccessKeySecret]
    region: str = "cn-hangzhou"
    groups: tuple[str, ...] = ()
    """Group IDs to create at the first start with them; one that is deleted later stays so."""
    parents: ParentTopics = field(default_factory=ParentTopics)
    """The parent topics there are; left out, every one."""


class Sandbox:
    """A running sandbox."""

    def __init__(self, port: int, mqtt_port: int, stack: AsyncExitStack) -> None:
        self.port = port
        self.mqtt_port = mqtt_port
        self._stack = stack

    async def stop(self) -> None:
        """End every connection, drop every held call and close the state."""
        await self._stack.aclose()


async def start(config: Config) -> Sandbox:
    """Start a sandbox.

    Raises ``OSError`` for a port that cannot be had (``errno.EADDRINUSE`` if another has it) and ``Misconfigured`` for
    a database that cannot be used. Then nothing is left running.
    """
    async with AsyncExitStack() as stack:
        state = await State.open(config.database)
        stack.push_async_callback(state.close)
        clock = Clock()
        for group in config.groups:
            await state.groups.create_initial(Group(config.instance_id, group, clock.now_ms()))
        mqtt_port, broker = await _start_broker(stack, config, state, clock)
        port = await _start_gateway(stack, config, state, clock, broker)
        return Sandbox(port, mqtt_port, stack.pop_all())
    raise AssertionError  # for mypy: an exit stack might swallow an exception, this one does not


async def _start_broker(stack: AsyncExitStack, config: Config, state: State, clock: Clock) -> tuple[int, Broker]:
    broker = Broker(state, clock)
    sign_in = SignIn(state, clock, config.instance_id, config.access_keys, config.parents)
    serving: dict[asyncio.Task[None], Connection] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(broker, sign_in, Wire(reader, writer))
        task = asyncio.create_task(connection.serve())
        serving[task] = connection
        task.add_done_callback(lambda done: serving.pop(done, None))

    async def stop_serving() -> None:
        tasks = list(serving)
        for connection in list(serving.values()):
            connection.end("the sandbox stops")
            connection.abort()
        await asyncio.gather(*tasks)

    server = await asyncio.start_server(accept, config.host, config.mqtt_port)
    watch = asyncio.create_task(broker.watch())
    stack.push_async_callback(_cancel, watch)
    stack.push_async_callback(stop_serving)
    stack.callback(server.close)
    return _port_of(server.sockets), broker


async def _start_gateway(stack: AsyncExitStack, config: Config, state: State, clock: Clock, broker: Broker) -> int:
    faults = Faults()
    account = Account(state, clock, config.instance_id, broker, config.parents)
    gateway = Gateway(account, config.access_keys, faults, f"onsmqtt.{config.region}.{regions.DOMAIN}")
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(Control(gateway, faults, clock, state).routes())
    app.router.add_route("*", "/", gateway.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    stack.callback(faults.release, go_on=False)  # before the runner waits for its handlers
    site = web.TCPSite(runner, config.host, config.port)
    await site.start()
    port: int = runner.addresses[0][1]
    return port


def _port_of(sockets: tuple[Any, ...]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
