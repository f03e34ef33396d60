"""One run of `dev`: starts the parts in order, writes ``dev.json``, and prints the welcome."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Final, Literal

from app.cli.dev_plan import Plan, dev_json, welcome
from app.cli.setup import find_device, open_admin_services
from app.embedded import parts, state
from app.embedded.example import DASHBOARD_ID, DEVICE_ID, BrokenState, Example, load_example, load_settings
from app.embedded.supervisor import Part, PartFailed, Supervisor
from app.errors import Misconfigured, Refusal
from app.model.operators import OperatorRole
from app.model.secrets import ClientSecret, Password
from app.service.registry import Registration
from app.settings import Settings

_REGISTER_WITHIN_S: Final = 10.0


def run_plan(plan: Plan) -> None:
    """Run all parts until a signal comes. Raises ``Misconfigured`` and ``Refusal``, each with a message of one line."""
    try:
        with state.locked(plan.state):
            asyncio.run(DevRun(plan).run_parts())
    except (state.StateInUse, PartFailed) as error:
        raise Refusal(str(error)) from error
    except BrokenState as error:
        raise Misconfigured(str(error)) from error
    except TimeoutError:
        raise Refusal(f"the example devices were not registered within {_REGISTER_WITHIN_S:g} s: try again") from None
    except OSError as error:
        raise Misconfigured(f"--state {plan.state}: {error}") from error


class DevRun:
    """One run of `dev`. The state directory must be locked."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._example = load_example(plan.state)
        self._settings = load_settings(plan.state, plan.addresses)
        self._dev_json = plan.state / "dev.json"
        self._supervisor = Supervisor(_print_line, self._rewrite_dev_json)

    async def run_parts(self) -> None:
        """Start all parts, print the welcome, wait for a signal and stop all parts. Raises ``PartFailed``."""
        started_at = time.monotonic()
        self._dev_json.unlink(missing_ok=True)  # of a dev that was killed
        for port in self._plan.ports:
            await self._need_free(port)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start_all(started_at))
        try:
            async with self._supervisor:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    await starting
                    await stopping
                await _cancel(starting)
                _print_line("\nstopping all parts")
        finally:
            await _cancel(starting, stopping)
            self._dev_json.unlink(missing_ok=True)
        _print_line(f"stopped; the data stays in {self._plan.state}")

    async def _start_all(self, started_at: float) -> None:
        plan = self._plan
        environment = {**_inherited(), **self._settings}
        await self._start_part(parts.valkey_part(plan.state, environment))
        await self._start_part(
            parts.sandbox_part(plan.state, environment, port=plan.sandbox_port, mqtt_port=plan.mqtt_port),
            plan.sandbox_port,
            plan.mqtt_port,
        )
        async with asyncio.timeout(_REGISTER_WITHIN_S):
            await _register(Settings.load(self._settings), self._example)
        for number in range(plan.instances):
            port = plan.port + number
            part = parts.instance_part(plan.state, environment, number=number, port=port)
            await self._start_part(part, port)
        self._write_dev_json()
        _print_line(welcome(plan, self._settings, self._example, started_in_s=time.monotonic() - started_at))

    async def _start_part(self, part: Part, *ports: int) -> None:
        started_at = time.monotonic()
        try:
            await self._supervisor.start(part)
        except PartFailed:
            # Another process may have taken a port that was free a moment ago: that is the better message.
            for port in ports:
                await self._need_free(port)
            raise
        _print_line(f"{part.name} is ready ({time.monotonic() - started_at:.1f} s)")

    async def _need_free(self, port: int) -> None:
        if not await parts.is_free(port):
            raise Misconfigured(f"port {port} is in use: choose another with {self._plan.ports[port]}")

    def _write_dev_json(self) -> None:
        state.write_private(self._dev_json, dev_json(self._plan, self._settings, self._example, self._supervisor.pids))

    def _rewrite_dev_json(self) -> None:
        """Write ``dev.json`` after a restart, if it exists: before all parts are ready it does not."""
        if self._dev_json.exists():
            self._write_dev_json()


async def _register(settings: Settings, example: Example) -> None:
    """Register the example devices and operator that are not registered yet; the dashboard's record names its role."""
    wanted = ((DEVICE_ID, "", example.device_secret), (DASHBOARD_ID, "dashboard", example.dashboard_secret))
    async with open_admin_services(settings) as services:
        for client_id, role, secret in wanted:
            if await find_device(services.registry, client_id) is None:
                await services.registry.add_device(
                    Registration(client_id, role, secret=ClientSecret(secret), note="example of dev"),
                    actor=services.actor,
                )
        if example.operator_name not in {operator.name for operator in await services.operators.list_operators()}:
            await services.operators.add_operator(
                example.operator_name, OperatorRole.ADMIN, Password(example.operator_password), actor=services.actor
            )


async def _cancel(*tasks: asyncio.Task[None] | asyncio.Task[Literal[True]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _inherited() -> dict[str, str]:
    """Return the environment without the settings of an instance: only those of `dev` count."""
    settings = {name.upper() for name in Settings.model_fields}
    return {
        name: value
        for name, value in os.environ.items()
        if name.removesuffix("_FILE") not in settings and not name.startswith("ALIBABA_CLOUD_")
    }


def _print_line(line: str) -> None:
    print(line, flush=True)
