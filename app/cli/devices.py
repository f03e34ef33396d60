"""``devices``: the registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.setup import JsonOption, StateOption, open_admin_services, read_text, settings
from app.cli.times import shown_time, span_s
from app.errors import InvalidRequest
from app.model.devices import Algorithm, Device

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.registry import Added

_Result = TypeVar("_Result")

app = typer.Typer(no_args_is_help=True, help="The registry of devices.")

ClientIdArgument = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="GID_group@@@device")]
AlgorithmOption = Annotated[Algorithm, typer.Option("--alg", help="How the device signs its assertions.")]
PublicKeyOption = Annotated[
    Path | None, typer.Option(help="File with its public key (PEM). Left out: a pair is made, the private half shown.")
]
AttributeOption = Annotated[
    list[str] | None, typer.Option("--attr", metavar="NAME=VALUE", help="For {attr.NAME} in the policy; repeatable.")
]


@app.command()
def add(
    client_id: ClientIdArgument,
    role: Annotated[str, typer.Option(help="Role in the policy. Left out: the one that matches the client ID.")] = "",
    algorithm: AlgorithmOption = Algorithm.HS256,
    public_key: PublicKeyOption = None,
    attribute: AttributeOption = None,
    note: Annotated[str, typer.Option(help="For people.")] = "",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a device. Its secret, or the private key made for it, is shown this once."""
    from app.service.registry import Registration  # noqa: PLC0415 - `--help` stays quick

    registration = Registration(
        client_id=client_id,
        role=role,
        algorithm=algorithm,
        attributes=dict(_attribute(text) for text in attribute or ()),
        note=note,
        public_key=read_text(public_key) if public_key else None,
    )
    _show_added(
        _do(state, lambda office: office.registry.add_device(registration, actor=office.actor)),
        "registered",
        as_json=as_json,
    )


@app.command()
def show(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show a device's record, without its secret."""
    device = _do(state, lambda office: office.registry.get_device(client_id))
    if as_json:
        print(json.dumps(as_record(device) | {"grace_until_ms": device.grace_until_ms}))
        return
    until = shown_time(device.grace_until_ms) if device.grace_until_ms else ""
    for name, value in (as_record(device) | {"old key until": until}).items():
        shown = " ".join(f"{key}={text}" for key, text in value.items()) if isinstance(value, dict) else value
        print(f"{name:<14} {shown}")


@app.command("list")
def list_devices(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all devices."""
    devices = sorted(_do(state, _all), key=lambda device: device.client_id)
    if as_json:
        print(json.dumps([as_record(device) for device in devices]))
        return
    from rich.console import Console  # noqa: PLC0415 - a table is for people alone
    from rich.table import Table  # noqa: PLC0415

    table = Table("client ID", "role", "algorithm", "state", "note", box=None, pad_edge=False)
    for device in devices:
        role = device.role or "(by match)"
        table.add_row(device.client_id, role, device.algorithm, "disabled" if device.disabled else "", device.note)
    Console().print(table)


@app.command()
def disable(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Refuse a device from now on, and revoke all it holds."""
    _show_revoked(
        client_id,
        "disabled",
        _do(state, lambda office: office.registry.disable_device(client_id, actor=office.actor)),
        as_json=as_json,
    )


@app.command()
def enable(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Let a disabled device in again."""
    _do(state, lambda office: office.registry.enable_device(client_id, actor=office.actor))
    print(json.dumps({"client_id": client_id}) if as_json else f"{client_id} is enabled")


@app.command()
def rotate(
    client_id: ClientIdArgument,
    algorithm: Annotated[
        Algorithm | None, typer.Option("--alg", help="How it signs from now on. Left out: as before.")
    ] = None,
    public_key: PublicKeyOption = None,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key stays good too, as in 24h; 30d at most.")
    ] = "0",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a device another key. Without --grace the old key is useless at once, and all the device holds is revoked.

    With it nothing is revoked: the old key is good beside the new one for that time. A key still older is dropped.
    """
    pem = read_text(public_key) if public_key else None
    grace_s = span_s(grace, "--grace")
    added, revoked = _do(
        state,
        lambda office: office.registry.rotate_key(
            client_id, public_key=pem, algorithm=algorithm, grace_s=grace_s, actor=office.actor
        ),
    )
    until_ms = added.device.grace_until_ms
    if as_json:
        print(json.dumps(as_added(added) | {"revoked": revoked, "grace_until_ms": until_ms}))
        return
    if until_ms:
        until = shown_time(until_ms)
        told = f"re-keyed, nothing revoked: the old key stays good until {until}, unless you rotate again or disable"
    else:
        told = f"re-keyed, {_tokens(revoked)} revoked; the old key is useless"
    _show_added(added, told, as_json=False)


@app.command()
def remove(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Forget a device, and revoke all it holds."""
    _show_revoked(
        client_id,
        "removed",
        _do(state, lambda office: office.registry.remove_device(client_id, actor=office.actor)),
        as_json=as_json,
    )


def as_record(device: Device) -> dict[str, Any]:
    """Return a device's record as it is shown and exported; it holds no key."""
    return {
        "client_id": device.client_id,
        "role": device.role,
        "algorithm": str(device.algorithm),
        "attributes": dict(device.attributes),
        "disabled": device.disabled,
        "note": device.note,
        "created_at_ms": device.created_at_ms,
    }


def as_added(added: Added) -> dict[str, str]:
    """Return what is shown of a new device: its client ID, and its secret or private key if that was made here."""
    shown = {"client_id": str(added.device.client_id)}
    if added.secret:
        shown["secret"] = added.secret.reveal()
    if added.private_key:
        shown["private_key"] = added.private_key.reveal()
    return shown


def _do(state: Path | None, verb: Callable[[AdminServices], Awaitable[_Result]]) -> _Result:
    async def run() -> _Result:
        async with open_admin_services(settings(state)) as office:
            return await verb(office)

    return asyncio.run(run())


async def _all(office: AdminServices) -> list[Device]:
    return [device async for device in office.registry.iterate_devices()]


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"--attr {text}: write NAME=VALUE")
    return name, value


def _show_added(added: Added, what: str, *, as_json: bool) -> None:
    shown = as_added(added)
    if as_json:
        print(json.dumps(shown))
        return
    print(f"{shown.pop('client_id')} is {what}")
    for name, value in shown.items():
        print(f"{name.replace('_', ' ')}, shown this once:\n{value}")


def _show_revoked(client_id: str, what: str, revoked: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"client_id": client_id, "revoked": revoked}))
    else:
        print(f"{client_id} is {what}, {_tokens(revoked)} revoked")


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"
