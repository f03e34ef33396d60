"""What `dev` runs and where, and what it writes: ``dev.json`` for programs, the welcome for example."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.cli.setup import DEFAULT_STATE
from app.embedded import valkey
from app.embedded.example import DASHBOARD_ID, DEVICE_ID, Example
from app.embedded.parts import HOST
from app.errors import Misconfigured

_MAX_PORT: Final = 65535


@dataclass(frozen=True)
class Plan:
    """What to run, and where. Raises ``Misconfigured`` if two parts have the same port."""

    state: Path
    port: int
    sandbox_port: int
    mqtt_port: int
    instances: int

    def __post_init__(self) -> None:
        if len(self.ports) < self.instances + len({"sandbox", "broker"}):
            raise Misconfigured("two parts would share a port: change --port, --sandbox-port or --mqtt-port")
        if self.port + self.instances - 1 > _MAX_PORT:
            raise Misconfigured(f"instance {self.instances - 1} would need a port above {_MAX_PORT}: change --port")

    @property
    def ports(self) -> dict[int, str]:
        """All ports, each with the option that sets it."""
        instances = {self.port + number: "--port" for number in range(self.instances)}
        return {**instances, self.sandbox_port: "--sandbox-port", self.mqtt_port: "--mqtt-port"}

    @property
    def server(self) -> str:
        """The URL of the first instance, which is also the issuer of all instances."""
        return f"http://{HOST}:{self.port}"

    @property
    def sandbox(self) -> str:
        """The URL of the sandbox's API."""
        return f"http://{HOST}:{self.sandbox_port}"

    @property
    def addresses(self) -> dict[str, str]:
        """The settings of an instance that depend on the ports and the state directory."""
        return {
            "REDIS_URL": valkey.url(self.state),
            "ISSUER_URL": self.server,
            "CLOUD_ENDPOINT": self.sandbox,
            "MQTT_HOST": HOST,
            "MQTT_PORT": str(self.mqtt_port),
            "MQTT_TLS": "false",
            "DRAIN_S": "0",  # there is no load balancer that must notice
        }


def dev_json(plan: Plan, settings: Mapping[str, str], example: Example, pids: Mapping[str, int]) -> str:
    """Return the content of ``dev.json``: what a program needs to use a running `dev`."""
    content = {
        "server": plan.server,
        "issuer": plan.server,
        "sandbox": plan.sandbox,
        "redis": settings["REDIS_URL"],
        "mqtt": {"host": HOST, "port": plan.mqtt_port},
        "instances": [
            {"url": f"http://{HOST}:{plan.port + number}", "pid": pids[f"instance {number}"]}
            for number in range(plan.instances)
        ],
        "instance_id": settings["CLOUD_INSTANCE_ID"],
        "access_key_id": settings["ALIBABA_CLOUD_ACCESS_KEY_ID"],
        "access_key_secret": settings["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
        "operator": {"name": example.operator_name, "password": example.operator_password},
        "device": {"client_id": DEVICE_ID, "secret": example.device_secret},
        "dashboard": {"client_id": DASHBOARD_ID, "secret": example.dashboard_secret},
        "pids": {"dev": os.getpid(), "redis": pids["valkey"], "sandbox": pids["sandbox"]},
    }
    return json.dumps(content, indent=2) + "\n"


def welcome(plan: Plan, settings: Mapping[str, str], example: Example, *, started_in_s: float) -> str:
    """Return the welcome: the addresses, and commands that work when they are pasted."""
    device = f"{_python()} -m app device{_state_option(plan.state)}"
    user = f"Token|{settings['ALIBABA_CLOUD_ACCESS_KEY_ID']}|{settings['CLOUD_INSTANCE_ID']}"
    broker = f"-h {HOST} -p {plan.mqtt_port} -V mqttv311 -u '{user}'"
    others = ", ".join(str(plan.port + number) for number in range(1, plan.instances))
    return f"""
Ready in {started_in_s:.1f} s. Ctrl-C stops all parts; their data stays in {plan.state}.

  server   {plan.server}{f" (more instances on {others})" if others else ""}
  console  {plan.server}/admin/ (name {example.operator_name}, password {example.operator_password})
  cloud    {plan.sandbox} (the sandbox), its MQTT broker {HOST}:{plan.mqtt_port}
  policy   {plan.state / "policy.toml"} (what devices may do; it is read again when it changes)
  logs     {plan.state / "logs"}
  details  {plan.state / "dev.json"} (addresses, names, secrets, process IDs)

A token for the example device:

  curl -s {plan.server}/oauth/token -u '{DEVICE_ID}:{example.device_secret}' -d grant_type=client_credentials \
--data-urlencode 'scope=pub:plant/d1/up/#'

A tour of a device, from its token to the end of its connection:

  {device}

Any MQTT 3.1.1 client works. With Mosquitto, the dashboard subscribes and the device publishes:

  mosquitto_sub {broker} -i {DASHBOARD_ID} -P "$({device} --client-id {DASHBOARD_ID} --password)" -v -t 'plant/+/up/#'

  mosquitto_pub {broker} -i {DEVICE_ID} -P "$({device} --password)" -q 1 -t plant/d1/up/temperature -m 21.5
"""


def _python() -> str:
    """Return the command of this Python, relative to the current directory where that is possible."""
    executable = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(executable.relative_to(here) if executable.is_relative_to(here) else executable))


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {shlex.quote(str(state))}"
