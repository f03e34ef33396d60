"""What `dev` runs and where, and what it tells: ``dev.json`` for programs, the welcome for people."""

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
    """What to run, and where. Raises ``Misconfigured`` if two parts would share a port."""

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
        """Every port, each with the option that changes it."""
        own = {self.port + number: "--port" for number in range(self.instances)}
        return {**own, self.sandbox_port: "--sandbox-port", self.mqtt_port: "--mqtt-port"}

    @property
    def server(self) -> str:
        """The URL of the first instance, which is the issuer of all."""
        return f"http://{HOST}:{self.port}"

    @property
    def sandbox(self) -> str:
        """The URL of the sandbox's API."""
        return f"http://{HOST}:{self.sandbox_port}"

    @property
    def addresses(self) -> dict[str, str]:
        """The settings of an instance that follow from the ports and the state directory."""
        return {
            "REDIS_URL": valkey.url(self.state),
            "ISSUER_URL": self.server,
            "CLOUD_ENDPOINT": self.sandbox,
            "MQTT_HOST": HOST,
            "MQTT_PORT": str(self.mqtt_port),
            "MQTT_TLS": "false",
            "DRAIN_S": "0",  # no balancer is there that would have to notice
        }


def dev_json(plan: Plan, settings: Mapping[str, str], people: Example, pids: Mapping[str, int]) -> str:
    """Return the text of ``dev.json``: all that a program needs to use a running `dev`."""
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
        "operator": {"name": people.operator_name, "password": people.operator_password},
        "device": {"client_id": DEVICE_ID, "secret": people.device_secret},
        "dashboard": {"client_id": DASHBOARD_ID, "secret": people.dashboard_secret},
        "pids": {"dev": os.getpid(), "redis": pids["valkey"], "sandbox": pids["sandbox"]},
    }
    return json.dumps(content, indent=2) + "\n"


def welcome(plan: Plan, settings: Mapping[str, str], people: Example, *, started_in_s: float) -> str:
    """Return what a newcomer needs next: where things are, and commands that work as they are pasted."""
    device = f"{_python()} -m app device{_state_option(plan.state)}"
    user = f"Token|{settings['ALIBABA_CLOUD_ACCESS_KEY_ID']}|{settings['CLOUD_INSTANCE_ID']}"
    broker = f"-h {HOST} -p {plan.mqtt_port} -V mqttv311 -u '{user}'"
    others = ", ".join(str(plan.port + number) for number in range(1, plan.instances))
    return f"""
Ready in {started_in_s:.1f} s. Ctrl-C stops all parts; the state stays in {plan.state}.

  server   {plan.server}{f" (more instances on {others})" if others else ""}
  console  {plan.server}/admin/ (name {people.operator_name}, password {people.operator_password})
  cloud    {plan.sandbox} (the sandbox), its MQTT broker {HOST}:{plan.mqtt_port}
  policy   {plan.state / "policy.toml"} (what devices may do; change it, it is read again)
  logs     {plan.state / "logs"}
  keys     {plan.state / "dev.json"} (addresses, names, secrets, process IDs)

A token for the example device:

  curl -s {plan.server}/oauth/token -u '{DEVICE_ID}:{people.device_secret}' -d grant_type=client_credentials \
--data-urlencode 'scope=pub:plant/d1/up/#'

A device from its token to being cut off, step by step:

  {device}

Any MQTT 3.1.1 client will do. Mosquitto's: the dashboard hears, the device speaks.

  mosquitto_sub {broker} -i {DASHBOARD_ID} -P "$({device} --client-id {DASHBOARD_ID} --password)" -v -t 'plant/+/up/#'

  mosquitto_pub {broker} -i {DEVICE_ID} -P "$({device} --password)" -q 1 -t plant/d1/up/temperature -m 21.5
"""


def _python() -> str:
    """Return how to call this Python from here: relative where that is possible, as people type it."""
    executable = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(executable.relative_to(here) if executable.is_relative_to(here) else executable))


def _state_option(state: Path) -> str:
    return "" if state == DEFAULT_STATE else f" --state {shlex.quote(str(state))}"
