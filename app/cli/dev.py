"""``dev``: the whole product on this machine, supervised."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.setup import DEFAULT_STATE


def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Instance i listens on this port + i.")] = 8080,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the stand-in cloud's API.")] = 8090,
    mqtt_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of its MQTT broker.")] = 1883,
    instances: Annotated[int, typer.Option(min=1, max=64, help="How many instances of the server.")] = 1,
    directory: Annotated[Path, typer.Option("--state", help="Directory that keeps all data and keys.")] = DEFAULT_STATE,
) -> None:
    """Run all parts on this machine: Valkey, the sandbox cloud and its broker, the server. Ctrl-C stops them all."""
    from app.cli import dev_plan, dev_run  # noqa: PLC0415 - `--help` and `serve` need none of it

    dev_run.run(dev_plan.Plan(directory, port, sandbox_port, mqtt_port, instances))
