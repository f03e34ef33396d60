"""The sandbox as one thing that is started and stopped: HTTP gateway, controls and MQTT broker on one state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from app.rpc import regions
from app.sandbox.account import Account
from app.sandbox.broker import Broker
from app.sandbox.clock import Clock
from app.sandbox.control import Control
from app.sandbox.faults import Faults
from app.sandbox.gateway import MAX_BODY_BYTES, Gateway
from app.sandbox.keys import OWNER, AccessKey
from app.sandbox.limits import PRESETS, Limits, Throttle
from app.sandbox.listener import Listener
from app.sandbox.signin import SignIn
from app.sandbox.state import State


@dataclass(frozen=True, slots=True)
class Config:
    """What a sandbox is started with. Port 0 is any free one."""

    host: str
    port: int
    mqtt_port: int
    database: Path | str
    instance_id: str
    access_keys: Mapping[str, AccessKey]
    region: str = "cn-hangzhou"
    owner: str = OWNER
    """The account whose instance it is."""
    other_instances: Mapping[str, str] = field(default_factory=dict)
    """Instances of other accounts, each with its owner."""
    limits: Limits = PRESETS["off"]


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
        broker = Broker(state, clock)
        listener = Listener(broker, SignIn(state, clock, config.instance_id, config.owner, config.access_keys))
        mqtt_port = await _start_broker(stack, config, broker, listener)
        port = await _start_gateway(stack, config, state, clock, broker, listener)
        return Sandbox(port, mqtt_port, stack.pop_all())
    raise AssertionError  # for mypy: an exit stack might swallow an exception, this one does not


async def _start_broker(stack: AsyncExitStack, config: Config, broker: Broker, listener: Listener) -> int:
    server = await asyncio.start_server(listener.accept, config.host, config.mqtt_port)
    watch = asyncio.create_task(broker.watch())
    stack.push_async_callback(_cancel, watch)
    stack.push_async_callback(listener.stop)
    stack.callback(server.close)
    return _port_of(server.sockets)


async def _start_gateway(
    stack: AsyncExitStack, config: Config, state: State, clock: Clock, broker: Broker, listener: Listener
) -> int:
    faults, throttle = Faults(), Throttle(config.limits)
    owners = {**config.other_instances, config.instance_id: config.owner}
    account = Account(state, clock, config.instance_id, owners, config.region, broker.revoked)
    host_id = f"onsmqtt.{config.region}.{regions.DOMAIN}"
    gateway = Gateway(account, config.access_keys, throttle, faults, host_id)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(Control(gateway, throttle, faults, clock, state, listener).routes())
    app.router.add_route("*", "/", gateway.handle)
    # A small body could unpack into a huge one, and the gateway takes none that is packed.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False)
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
