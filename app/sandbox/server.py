"""Start and stop a sandbox: HTTP gateway, control endpoints and MQTT broker on one state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from app.rpc import regions
from app.sandbox.access import ParentTopics
from app.sandbox.access_keys import DEFAULT_ACCOUNT, AccessKey
from app.sandbox.account import SandboxAccount
from app.sandbox.arrivals import ArrivalTimes
from app.sandbox.broker import MqttBroker
from app.sandbox.connection import BrokerListener
from app.sandbox.control import ControlEndpoints
from app.sandbox.device_tables import GroupRecord
from app.sandbox.faults import FaultInjector
from app.sandbox.gateway import Gateway
from app.sandbox.gateway_port import GatewayPort
from app.sandbox.gateway_request import MAX_BODY_BYTES
from app.sandbox.limits import QUOTA_PRESETS, QuotaLimits, Throttle
from app.sandbox.pauses import MAX_PAUSE_S, PauseMeter
from app.sandbox.sign_in import BrokerSignIn
from app.sandbox.state import SandboxClock, SandboxState
from app.tasks import end


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The settings of a sandbox."""

    database: Path | str
    instance_id: str
    """The instance that it plays."""
    access_keys: Mapping[str, AccessKey]
    host: str = "127.0.0.1"
    port: int = 0
    """0 for any free one."""
    mqtt_port: int = 0
    """0 for any free one."""
    control_port: int | None = None
    """Another port for the control endpoints, for while the API's port is closed; 0 for any free one."""
    region: str = "cn-hangzhou"
    groups: tuple[str, ...] = ()
    """Group IDs to create at the first start with them; one that is deleted later is not created again."""
    parents: ParentTopics = field(default_factory=ParentTopics)
    """The parent topics that exist; the default is every one."""
    owner: str = DEFAULT_ACCOUNT
    """The account that owns the instance."""
    other_instances: Mapping[str, str] = field(default_factory=dict)
    """Instances of other accounts, each with its owner."""
    limits: QuotaLimits = QUOTA_PRESETS["off"]
    max_pause_s: float = MAX_PAUSE_S
    """A longer pause of this process is reported: callers do not allow for it."""


class Sandbox:
    """A running sandbox."""

    def __init__(self, ports: SandboxPorts, stack: AsyncExitStack) -> None:
        self.port = ports.api
        self.mqtt_port = ports.mqtt
        self.control_port = ports.control
        self._stack = stack

    async def stop(self) -> None:
        """End every connection, drop every held call, and close the state."""
        await self._stack.aclose()


class SandboxPorts(NamedTuple):
    """The ports that a sandbox listens on."""

    api: int
    mqtt: int
    control: int | None


async def start_sandbox(config: SandboxConfig) -> Sandbox:
    """Start a sandbox.

    Raises ``OSError`` for a port that cannot be used (``errno.EADDRINUSE`` if it is in use), and ``Misconfigured`` for
    a database that cannot be used. Then nothing is left running.
    """
    async with AsyncExitStack() as stack:
        account = await _open_account(stack, config)
        listener = BrokerListener(account.broker, _sign_in(account, config))
        mqtt_port = await _start_broker(stack, config, account.broker, listener=listener)
        port, control_port = await _start_gateway(stack, config, account, listener=listener)
        return Sandbox(SandboxPorts(port, mqtt_port, control_port), stack.pop_all())
    raise AssertionError  # for mypy: an exit stack may suppress an exception, this one does not


async def _open_account(stack: AsyncExitStack, config: SandboxConfig) -> SandboxAccount:
    state = await SandboxState.open(config.database)
    stack.push_async_callback(state.close)
    clock = SandboxClock()
    for group in config.groups:
        await state.groups.create_initial_group(GroupRecord(config.instance_id, group, clock.now_ms()))
    return SandboxAccount(
        state=state,
        clock=clock,
        broker=MqttBroker(state, clock),
        instance_id=config.instance_id,
        owners={**config.other_instances, config.instance_id: config.owner},
        access_keys=config.access_keys,
        region=config.region,
        parents=config.parents,
    )


def _sign_in(account: SandboxAccount, config: SandboxConfig) -> BrokerSignIn:
    return BrokerSignIn(
        state=account.state,
        clock=account.clock,
        instance_id=config.instance_id,
        owner=config.owner,
        access_keys=config.access_keys,
        parents=config.parents,
    )


async def _start_broker(
    stack: AsyncExitStack, config: SandboxConfig, broker: MqttBroker, *, listener: BrokerListener
) -> int:
    server = await asyncio.start_server(listener.accept, config.host, config.mqtt_port)
    checks = asyncio.create_task(broker.run_checks())
    stack.push_async_callback(end, [checks])
    stack.push_async_callback(listener.stop)
    stack.callback(server.close)
    return _port_of(server.sockets)


async def _start_gateway(
    stack: AsyncExitStack, config: SandboxConfig, account: SandboxAccount, *, listener: BrokerListener
) -> tuple[int, int | None]:
    """Serve the API and the control endpoints; return the port of the API and the control port."""
    faults, throttle, pauses = FaultInjector(), Throttle(config.limits), PauseMeter(config.max_pause_s)
    arrivals, runner = ArrivalTimes(pauses), _new_runner()
    port = GatewayPort(runner, arrivals, host=config.host, port=config.port)
    host_id = f"onsmqtt.{config.region}.{regions.DOMAIN}"
    gateway = Gateway(account, throttle=throttle, faults=faults, arrivals=arrivals, host_id=host_id)
    control = ControlEndpoints(
        account, gateway=gateway, throttle=throttle, faults=faults, pauses=pauses, port=port, listener=listener
    )
    control_port = await _open_control_port(stack, config, control)
    runner.app.add_routes([*control.routes(), web.route("*", "/", port.while_open(gateway.handle))])
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    stack.callback(faults.release_calls, go_on=False)  # before the runner waits for its handlers
    stack.callback(faults.stop_timers)
    await port.open()
    stack.push_async_callback(port.stop)
    stack.push_async_callback(end, [asyncio.create_task(pauses.measure())])
    return port.number, control_port


async def _open_control_port(stack: AsyncExitStack, config: SandboxConfig, control: ControlEndpoints) -> int | None:
    if config.control_port is None:
        return None
    runner = _new_runner()
    runner.app.add_routes(control.routes())
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, config.host, config.control_port).start()
    port: int = runner.addresses[0][1]
    return port


def _new_runner() -> web.AppRunner:
    # Attack: a small compressed body that expands to a huge one. The gateway accepts no compressed body.
    return web.AppRunner(
        web.Application(client_max_size=MAX_BODY_BYTES), access_log=None, shutdown_timeout=1.0, auto_decompress=False
    )


def _port_of(sockets: tuple[Any, ...]) -> int:
    port: int = sockets[0].getsockname()[1]
    return port
