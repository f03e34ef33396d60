"""One run of `dev`: its parts in order, and what it writes and says."""

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


def run(plan: Plan) -> None:
    """Run all parts until a signal comes. Raises ``Misconfigured`` and ``Refusal``, each one line."""
    try:
        with state.locked(plan.state):
            asyncio.run(Dev(plan).run())
    except (state.StateInUse, PartFailed) as error:
        raise Refusal(str(error)) from error
    except BrokenState as error:
        raise Misconfigured(str(error)) from error
    except TimeoutError:
        raise Refusal(f"the examples could not be registered within {_REGISTER_WITHIN_S:g} s") from None
    except OSError as error:
        raise Misconfigured(f"--state {plan.state}: {error}") from error


class Dev:
    """One run of `dev`, on a state directory that is locked for it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._people = load_example(plan.state)
        self._settings = load_settings(plan.state, plan.addresses)
        self._written = plan.state / "dev.json"
        self._supervisor = Supervisor(_say, self._write_again)

    async def run(self) -> None:
        """Start all parts, tell the newcomer what to do next, and wait for a signal. Raises ``PartFailed``."""
        began = time.monotonic()
        self._written.unlink(missing_ok=True)  # left by a dev that was killed
        for number in self._plan.ports:
            await self._need_free(number)
        stop = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start(began))
        try:
            async with self._supervisor:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    await starting
                    await stopping
                await _cancel(starting)
                _say("\nstopping all parts")
        finally:
            await _cancel(starting, stopping)
            self._written.unlink(missing_ok=True)
        _say(f"stopped; the state stays in {self._plan.state}")

    async def _start(self, began: float) -> None:
        plan = self._plan
        environment = {**_inherited(), **self._settings}
        await self._start_part(parts.valkey_part(plan.state, environment))
        await self._start_part(
            parts.sandbox_part(plan.state, environment, port=plan.sandbox_port, mqtt_port=plan.mqtt_port),
            plan.sandbox_port,
            plan.mqtt_port,
        )
        async with asyncio.timeout(_REGISTER_WITHIN_S):
            await _register(Settings.load(self._settings), self._people)
        for number in range(plan.instances):
            port = plan.port + number
            part = parts.instance_part(plan.state, environment, number=number, port=port)
            await self._start_part(part, port)
        self._write()
        _say(welcome(plan, self._settings, self._people, started_in_s=time.monotonic() - began))

    async def _start_part(self, part: Part, *ports: int) -> None:
        began = time.monotonic()
        try:
            await self._supervisor.start(part)
        except PartFailed:
            # It may have lost a race for a port that was free a moment ago; then that is what to say.
            for port in ports:
                await self._need_free(port)
            raise
        _say(f"{part.name} is ready ({time.monotonic() - began:.1f} s)")

    async def _need_free(self, port: int) -> None:
        if not await parts.is_free(port):
            raise Misconfigured(f"port {port} is busy: choose another with {self._plan.ports[port]}")

    def _write(self) -> None:
        state.write_private(self._written, dev_json(self._plan, self._settings, self._people, self._supervisor.pids))

    def _write_again(self) -> None:
        """After a restart: ``dev.json`` is only there while everything has been ready once."""
        if self._written.exists():
            self._write()


async def _register(settings: Settings, people: Example) -> None:
    """Register the examples that are not there yet; the dashboard's record names its role itself."""
    wanted = ((DEVICE_ID, "", people.device_secret), (DASHBOARD_ID, "dashboard", people.dashboard_secret))
    async with open_admin_services(settings) as office:
        for client_id, role, secret in wanted:
            if await find_device(office.registry, client_id) is None:
                await office.registry.add_device(
                    Registration(client_id, role, secret=ClientSecret(secret), note="example of dev"),
                    actor=office.actor,
                )
        if people.operator_name not in {operator.name for operator in await office.operators.list_operators()}:
            await office.operators.add_operator(
                people.operator_name, OperatorRole.ADMIN, Password(people.operator_password), actor=office.actor
            )


async def _cancel(*tasks: asyncio.Task[None] | asyncio.Task[Literal[True]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _inherited() -> dict[str, str]:
    """This process's environment without anything that would settle an instance: dev's own settings alone count."""
    ours = {name.upper() for name in Settings.model_fields}
    return {
        name: value
        for name, value in os.environ.items()
        if name.removesuffix("_FILE") not in ours and not name.startswith("ALIBABA_CLOUD_")
    }


def _say(line: str) -> None:
    print(line, flush=True)
