"""``devices import`` and ``devices export``: the registry as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from app.cli.devices import as_added, as_record
from app.cli.setup import JsonOption, StateOption, find_device, read_text, run_with_services
from app.errors import InvalidRequest
from app.model.devices import Algorithm
from app.model.secrets import ClientSecret

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.registry import AddedDevice, Registration, Registry


class _FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One device in a file, as ``export`` writes it. ``secret`` is only read, never written."""

    client_id: str
    role: str = ""
    algorithm: Algorithm = Algorithm.HS256
    attributes: dict[str, str] = {}
    disabled: bool = False
    note: str = ""
    created_at_ms: int = 0
    secret: str | None = None
    public_key: str | None = None

    def registration(self) -> Registration:
        """Return the registration that the entry describes."""
        from app.service.registry import Registration  # noqa: PLC0415 - `--help` stays quick

        return Registration(
            client_id=self.client_id,
            role=self.role,
            algorithm=self.algorithm,
            attributes=self.attributes,
            note=self.note,
            secret=ClientSecret(self.secret) if self.secret is not None else None,
            public_key=self.public_key,
        )


_Entries = Mapping[int, _FileEntry]
"""The entries of a file by their line number."""


def import_devices(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, as export writes them, with or without secret.")
    ],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register the devices of a file. All lines are checked first: if one is wrong, nothing is registered.

    For a line without secret and public_key a key is generated and shown, only once.
    """
    entries = _parse_entries(file)
    run_with_services(state, lambda services: _import_entries(services, entries, as_json=as_json))
    if not as_json:
        print(f"{len(entries)} registered")


def export_devices(state: StateOption = None) -> None:
    """Print all devices as JSON lines. Public keys are included, secrets are not."""
    without_key = run_with_services(state, _print_all_devices)
    if without_key:
        print(
            f"{without_key} with a shared secret, which is not exported: an import generates a new one",
            file=sys.stderr,
        )


def _parse_entries(file: Path) -> _Entries:
    entries: dict[int, _FileEntry] = {}
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        if text.strip():
            try:
                entries[number] = msgspec.json.decode(text, type=_FileEntry)
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"{file}, line {number}: not a device in JSON: {error}") from None
    return entries


async def _import_entries(services: AdminServices, entries: _Entries, *, as_json: bool) -> None:
    await _check_entries(services.registry, entries)
    for entry in entries.values():
        printed = as_added(await _add_entry(services, entry))
        # At once: a secret is shown only now, and the next registration may fail.
        print(json.dumps(printed) if as_json else "  ".join(printed.values()), flush=True)


async def _check_entries(registry: Registry, entries: _Entries) -> None:
    """Raise ``InvalidRequest`` for the first entry that cannot be registered."""
    line_of: dict[str, int] = {}
    for number, entry in entries.items():
        try:
            registry.check_registration(entry.registration())
        except InvalidRequest as error:
            raise InvalidRequest(f"line {number}: {error.description}") from None
        if entry.client_id in line_of:
            raise InvalidRequest(f"line {number}: {entry.client_id} is in line {line_of[entry.client_id]} already")
        if await find_device(registry, entry.client_id):
            raise InvalidRequest(f"line {number}: {entry.client_id} is registered already: remove the line")
        line_of[entry.client_id] = number


async def _add_entry(services: AdminServices, entry: _FileEntry) -> AddedDevice:
    added = await services.registry.add_device(entry.registration(), actor=services.actor)
    if entry.disabled:
        await services.registry.disable_device(entry.client_id, actor=services.actor)
    return added


async def _print_all_devices(services: AdminServices) -> int:
    """Print each device; return how many have a shared secret, which is not printed."""
    without_key = 0
    async for device in services.registry.iterate_devices():
        key = await services.registry.public_key(device.client_id)
        print(json.dumps({**as_record(device), **({"public_key": key.reveal()} if key else {})}))
        without_key += key is None
    return without_key
