"""``dev``: the whole product on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.setup import DEFAULT_STATE


def _port_option(help_: str) -> Any:
    return typer.Option(min=1, max=65535, metavar="PORT", help=help_)


def run_dev(
    port: Annotated[int, _port_option("Port of the first instance; instance i listens on this port + i.")] = 8080,
    sandbox_port: Annotated[int, _port_option("Port of the sandbox, which replaces the cloud.")] = 8090,
    mqtt_port: Annotated[int, _port_option("Port of the sandbox's MQTT broker.")] = 1883,
    instances: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="How many instances to run.")] = 1,
    directory: Annotated[
        Path, typer.Option("--state", metavar="DIR", help="Directory for all data and keys.")
    ] = DEFAULT_STATE,
) -> None:
    """Run the whole product on this machine: Valkey, the sandbox with its broker, the server. Ctrl-C stops it."""
    from app.cli import dev_plan, dev_run  # noqa: PLC0415 - `--help` and `serve` need none of it

    dev_run.run_plan(dev_plan.Plan(directory, port, sandbox_port, mqtt_port, instances))
