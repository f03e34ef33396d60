"""``sandbox``: the stand-in for the cloud and its broker, alone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import Misconfigured
from app.model.secrets import AccessKeySecret

if TYPE_CHECKING:
    from app.sandbox.access import ParentTopics
    from app.sandbox.access_keys import AddedAccessKeys
    from app.sandbox.limits import QuotaLimits
    from app.sandbox.server import Sandbox, SandboxConfig

# app.sandbox is imported by the functions that need it, so that `--help` stays fast.


_Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
_Port = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65535, help="Port of the API and the controls; 0 for any free one.")
]
_MqttPort = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65535, help="Port of the broker; 0 for any free one.")
]
_ControlPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Another port for the controls, for while the API's port is closed in a rehearsal; 0 for any free one.",
    ),
]
_State = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Directory of its state, which includes the secrets of device credentials."),
]
_Groups = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SANDBOX_GROUPS",
        metavar="GROUP_ID",
        help="Group to create at the first start with it; may be repeated. CreateGroupId creates others.",
    ),
]
_Topics = Annotated[
    list[str] | None,
    typer.Option(
        envvar="SANDBOX_TOPICS",
        metavar="PARENT_TOPIC",
        help="Parent topic that exists; may be repeated. Without this option every parent topic exists.",
    ),
]
_Keys = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SANDBOX_KEYS",
        help="JSON file of additional access keys, with accounts and RAM policies.",
    ),
]
_Limits = Annotated[
    str,
    typer.Option(
        metavar="LIMITS",
        envvar="SANDBOX_LIMITS",
        help="Quotas of today's instances (v3), of the previous generation (v2), or off; and whether they hold in any "
        "period of one second (sliding, the default) or per second of the clock (whole): v2,whole.",
    ),
]
_MaxPause = Annotated[
    float,
    typer.Option(
        metavar="MS",
        envvar="CLOUD_JITTER_MS",
        min=0,
        help="Report a pause of the sandbox that is longer, because the servers do not allow for one.",
    ),
]


def sandbox(
    host: _Host = "127.0.0.1",
    port: _Port = 8090,
    mqtt_port: _MqttPort = 1883,
    control_port: _ControlPort = None,
    state: _State = Path(".local/sandbox"),
    group: _Groups = None,
    topic: _Topics = None,
    keys: _Keys = None,
    limits: _Limits = "v3",
    max_pause_ms: _MaxPause = 30,
) -> None:
    """Run the stand-in for the cloud's API and its MQTT broker.

    ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET are the root key of the account, CLOUD_INSTANCE_ID
    is the instance to play. A client ID cannot connect unless its group exists. deploy/SANDBOX.md describes the file of
    --keys, and how to rehearse an outage.
    """
    from app.sandbox.access_keys import AccessKey  # noqa: PLC0415
    from app.sandbox.server import SandboxConfig  # noqa: PLC0415

    key_id, key_secret, instance_id = (
        _environment(name)
        for name in ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "CLOUD_INSTANCE_ID")
    )
    added = _added_access_keys(keys, taken={key_id, instance_id})
    for text in group or ():
        _check_group_id(text)
    parents = _parent_topics(tuple(topic or ()))
    quota_limits = _quota_limits(limits)
    _make_state_directory(state)
    config = SandboxConfig(
        host=host,
        port=port,
        mqtt_port=mqtt_port,
        control_port=control_port,
        database=state / "sandbox.sqlite",
        instance_id=instance_id,
        access_keys={key_id: AccessKey(AccessKeySecret(key_secret)), **added.keys},
        region=os.environ.get("CLOUD_REGION", "cn-hangzhou"),
        groups=tuple(group or ()),
        parents=parents,
        other_instances=added.instances,
        limits=quota_limits,
        max_pause_s=max_pause_ms / 1000,
    )
    asyncio.run(_serve(config))


def _environment(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise Misconfigured(f"{name} is not set: set it to the value that the sandbox is to accept")
    return value


def _added_access_keys(path: Path | None, *, taken: set[str]) -> AddedAccessKeys:
    """Read the file of ``--keys``; it must not name what the environment names already."""
    from app.sandbox.access_keys import AddedAccessKeys, load_access_keys  # noqa: PLC0415

    added = load_access_keys(path) if path else AddedAccessKeys()
    if repeated := taken & (added.keys.keys() | added.instances.keys()):
        raise Misconfigured(f"{path}: {repeated.pop()!r} is set in the environment already: remove it from one of them")
    return added


def _check_group_id(text: str) -> None:
    from app.rpc.catalog import ACTIONS  # noqa: PLC0415

    [rule] = [parameter.rule for parameter in ACTIONS["CreateGroupId"].parameters if parameter.name == "GroupId"]
    if not rule.admits(text):
        raise Misconfigured(f"--group {text!a} is not a valid group ID: {rule.says}")


def _parent_topics(names: tuple[str, ...]) -> ParentTopics:
    from app.sandbox.access import ParentTopics  # noqa: PLC0415

    try:
        return ParentTopics.parse_names(names)
    except ValueError as error:
        raise Misconfigured(f"--topic: {error}") from error


def _quota_limits(text: str) -> QuotaLimits:
    """Read ``--limits``: a generation of instances, how seconds are counted, or both."""
    from app.sandbox.call_meter import QuotaWindow  # noqa: PLC0415
    from app.sandbox.limits import QUOTA_PRESETS  # noqa: PLC0415

    words = text.split(",")
    presets = [word for word in words if word in QUOTA_PRESETS]
    windows = [window for window in QuotaWindow if window.value in words]
    if len(words) != len(presets) + len(windows) or len(presets) > 1 or len(windows) > 1:
        expected = f"use {', '.join(QUOTA_PRESETS)}, and sliding or whole after a comma, for example v2,whole"
        raise Misconfigured(f"--limits {text!a} is not valid: {expected}")
    limits = QUOTA_PRESETS[presets[0] if presets else "v3"]
    return replace(limits, window=windows[0]) if windows else limits


def _make_state_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"--state {path}: cannot create the directory: {error.strerror}") from error


async def _serve(config: SandboxConfig) -> None:
    """Run a sandbox until SIGINT or SIGTERM. Raises ``Misconfigured`` if it cannot start."""
    from app.sandbox.server import start_sandbox  # noqa: PLC0415

    try:
        running = await start_sandbox(config)
    except OSError as error:
        raise _cannot_listen(config, error) from error
    _print_addresses(config.host, running)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        await running.stop()


def _print_addresses(host: str, running: Sandbox) -> None:
    print(f"ready: API http://{host}:{running.port}, broker {host}:{running.mqtt_port}", flush=True)
    if running.control_port is not None:
        print(f"controls: http://{host}:{running.control_port}", flush=True)


def _cannot_listen(config: SandboxConfig, error: OSError) -> Misconfigured:
    if error.errno != errno.EADDRINUSE:
        return Misconfigured(f"cannot listen on {config.host}: {error}")
    ports = f"{config.port} (--port) or {config.mqtt_port} (--mqtt-port)"
    if config.control_port is not None:
        ports = f"{config.port} (--port), {config.mqtt_port} (--mqtt-port) or {config.control_port} (--control-port)"
    return Misconfigured(f"port {ports} on {config.host} is in use: choose another")
