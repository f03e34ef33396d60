"""``devices``: the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import count_of_tokens, print_fields, print_result, print_table
from app.cli.setup import JsonOption, StateOption, read_text, run_with_services
from app.cli.times import shown_time, span_s
from app.errors import InvalidRequest
from app.model.devices import Algorithm, Device

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.registry import AddedDevice

app = typer.Typer(no_args_is_help=True, help="The registry of devices.")

ClientIdArgument = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="GID_group@@@device")]
AlgorithmOption = Annotated[Algorithm, typer.Option("--alg", help="How the device signs its assertions.")]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with its public key (PEM). Default: a pair is generated."),
]
AttributeOption = Annotated[
    list[str] | None,
    typer.Option("--attr", metavar="NAME=VALUE", help="For {attr.NAME} in the policy; may be repeated."),
]


@app.command("add")
def add_device(
    client_id: ClientIdArgument,
    role: Annotated[
        str, typer.Option(metavar="ROLE", help="Role in the policy. Default: the one that matches the client ID.")
    ] = "",
    algorithm: AlgorithmOption = Algorithm.HS256,
    public_key: PublicKeyOption = None,
    attribute: AttributeOption = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="A note for operators.")] = "",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a device. Its generated secret or private key is shown only once, now."""
    from app.service.registry import Registration  # noqa: PLC0415 - `--help` stays quick

    registration = Registration(
        client_id=client_id,
        role=role,
        algorithm=algorithm,
        attributes=dict(_attribute(text) for text in attribute or ()),
        note=note,
        public_key=read_text(public_key) if public_key else None,
    )
    added = run_with_services(state, lambda services: services.registry.add_device(registration, actor=services.actor))
    _print_added(added, "is registered", as_json=as_json)


@app.command("show")
def show_device(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show a device's record, without its secret."""
    device = run_with_services(state, lambda services: services.registry.get_device(client_id))
    record = as_record(device)
    if as_json:
        print(json.dumps(record | {"grace_until_ms": device.grace_until_ms}))
        return
    attributes = " ".join(f"{name}={value}" for name, value in device.attributes.items())
    print_fields(record | {"attributes": attributes, "old key until": shown_time(device.grace_until_ms)})


@app.command("list")
def list_devices(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List all devices."""
    devices = sorted(run_with_services(state, _all_devices), key=lambda device: device.client_id)
    if as_json:
        print(json.dumps([as_record(device) for device in devices]))
        return
    rows = (
        (each.client_id, each.role or "(by match)", each.algorithm, "disabled" if each.disabled else "", each.note)
        for each in devices
    )
    print_table(("client ID", "role", "algorithm", "state", "note"), rows)


@app.command("disable")
def disable_device(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Refuse a device from now on, and revoke its tokens."""
    revoked = run_with_services(
        state, lambda services: services.registry.disable_device(client_id, actor=services.actor)
    )
    _print_revoked(client_id, "disabled", revoked, as_json=as_json)


@app.command("enable")
def enable_device(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Accept a disabled device again."""
    run_with_services(state, lambda services: services.registry.enable_device(client_id, actor=services.actor))
    print_result({"client_id": client_id}, f"{client_id} is enabled", as_json=as_json)


@app.command("rotate")
def rotate_device_key(
    client_id: ClientIdArgument,
    algorithm: Annotated[
        Algorithm | None, typer.Option("--alg", help="How it signs from now on. Default: as before.")
    ] = None,
    public_key: PublicKeyOption = None,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key is accepted too, as in 24h; at most 30d.")
    ] = "0",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a device another key. Without --grace the old key is refused at once, and the device's tokens are revoked.

    With --grace nothing is revoked, and the old key is accepted beside the new one for that time. An older key than
    that is refused.
    """
    pem = read_text(public_key) if public_key else None
    grace_s = span_s(grace, "--grace")
    added, revoked = run_with_services(
        state,
        lambda services: services.registry.rotate_key(
            client_id, public_key=pem, algorithm=algorithm, grace_s=grace_s, actor=services.actor
        ),
    )
    until_ms = added.device.grace_until_ms
    if as_json:
        print(json.dumps(as_added(added) | {"revoked": revoked, "grace_until_ms": until_ms}))
    elif until_ms:
        until = shown_time(until_ms)
        what = f"has a new key, no token is revoked: the old key works until {until}, unless you rotate it again"
        _print_added(added, what, as_json=False)
    else:
        _print_added(added, f"has a new key, {count_of_tokens(revoked)} revoked; the old key is refused", as_json=False)


@app.command("remove")
def remove_device(client_id: ClientIdArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Remove a device from the registry, and revoke its tokens."""
    revoked = run_with_services(
        state, lambda services: services.registry.remove_device(client_id, actor=services.actor)
    )
    _print_revoked(client_id, "removed", revoked, as_json=as_json)


def as_record(device: Device) -> dict[str, Any]:
    """Return a device's record as it is shown and exported, without its key."""
    return {
        "client_id": device.client_id,
        "role": device.role,
        "algorithm": str(device.algorithm),
        "attributes": dict(device.attributes),
        "disabled": device.disabled,
        "note": device.note,
        "created_at_ms": device.created_at_ms,
    }


def as_added(added: AddedDevice) -> dict[str, str]:
    """Return what is printed of a new device: its client ID, and its secret or private key if it was generated."""
    printed = {"client_id": str(added.device.client_id)}
    if added.secret:
        printed["secret"] = added.secret.reveal()
    if added.private_key:
        printed["private_key"] = added.private_key.reveal()
    return printed


async def _all_devices(services: AdminServices) -> list[Device]:
    return [device async for device in services.registry.iterate_devices()]


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"--attr {text}: write NAME=VALUE")
    return name, value


def _print_added(added: AddedDevice, what: str, *, as_json: bool) -> None:
    printed = as_added(added)
    if as_json:
        print(json.dumps(printed))
        return
    print(f"{printed.pop('client_id')} {what}")
    for name, value in printed.items():
        print(f"{name.replace('_', ' ')}, shown only once:\n{value}")


def _print_revoked(client_id: str, what: str, revoked: int, *, as_json: bool) -> None:
    document = {"client_id": client_id, "revoked": revoked}
    print_result(document, f"{client_id} is {what}, {count_of_tokens(revoked)} revoked", as_json=as_json)
