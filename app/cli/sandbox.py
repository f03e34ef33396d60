"""``sandbox``: the stand-in cloud and its broker alone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret

if TYPE_CHECKING:
    from app.sandbox.server import Config


class Generation(Enum):
    """Whose quotas the sandbox keeps."""

    V3 = "v3"
    V2 = "v2"
    OFF = "off"


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 8090,
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the broker; 0 takes a free one.")] = 1883,
    state: Annotated[Path, typer.Option(help="Directory it keeps its tokens in.")] = Path(".local/sandbox"),
    keys: Annotated[
        Path | None,
        typer.Option(envvar="SANDBOX_KEYS", help="JSON file of more access keys, with accounts and RAM policies."),
    ] = None,
    limits: Annotated[
        Generation,
        typer.Option(envvar="SANDBOX_LIMITS", help="Quotas of today's instances (v3), of the previous (v2), or off."),
    ] = Generation.V3,
) -> None:
    """Run the stand-in for the cloud's API and its MQTT broker.

    ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET hold the root key of the account, CLOUD_INSTANCE_ID
    the instance it plays. deploy/SANDBOX.md has the form of --keys, and how to rehearse an outage.
    """
    key_id, key_secret, instance_id = (
        _required(name)
        for name in ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "CLOUD_INSTANCE_ID")
    )
    from app.sandbox.keys import AccessKey, Keyring, load_keyring  # noqa: PLC0415 - `--help` stays quick
    from app.sandbox.limits import PRESETS  # noqa: PLC0415
    from app.sandbox.server import Config  # noqa: PLC0415

    keyring = load_keyring(keys) if keys else Keyring()
    if own := {key_id, instance_id} & (keyring.keys.keys() | keyring.instances.keys()):
        raise Misconfigured(f"{keys}: {own.pop()!r} is there already, from the environment")
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"--state {state}: {error}") from error
    config = Config(
        host=host,
        port=port,
        mqtt_port=mqtt_port,
        database=state / "sandbox.sqlite",
        instance_id=instance_id,
        access_keys={key_id: AccessKey(AccessKeySecret(key_secret)), **keyring.keys},
        region=os.environ.get("CLOUD_REGION", "cn-hangzhou"),
        other_instances=keyring.instances,
        limits=PRESETS[limits.value],
    )
    asyncio.run(_run(config))


async def _run(config: Config) -> None:
    from app.sandbox import server  # noqa: PLC0415

    try:
        running = await server.start(config)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Misconfigured(f"cannot listen on {config.host}: {error}") from error
        ports = f"{config.port} (--port) or {config.mqtt_port} (--mqtt-port)"
        raise Misconfigured(f"port {ports} on {config.host} is busy: choose another") from error
    print(f"ready: API http://{config.host}:{running.port}, broker {config.host}:{running.mqtt_port}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        await running.stop()


def _required(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise Misconfigured(f"{name} is not set: the sandbox needs to know which key or instance it plays")
    return value
