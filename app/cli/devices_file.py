"""``devices import`` and ``devices export``: the registry as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from app.cli.devices import as_added, as_record
from app.cli.setup import JsonOption, StateOption, find_device, open_admin_services, open_registry, read_text, settings
from app.errors import InvalidRequest
from app.model.devices import Algorithm
from app.model.secrets import ClientSecret

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.registry import Added, Registration


class _FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One device in a file, as ``export`` writes it; ``secret`` is only ever read."""

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
        """Return what the line asks for."""
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


def import_devices(
    file: Annotated[Path, typer.Argument(help="JSON lines, as export writes them; with secret or without.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register the devices of a file. All lines are checked first: one wrong line, and nothing is registered.

    A line without secret and public_key gets a key made here, shown this once.
    """
    lines = _parse(file)
    asyncio.run(_import(lines, state, as_json=as_json))
    if not as_json:
        print(f"{len(lines)} registered")


def export_devices(state: StateOption = None) -> None:
    """Print all devices as JSON lines. Secrets are not among them; public keys are."""
    without = asyncio.run(_export(state))
    if without:
        print(f"{without} with a shared secret: it is left out, so an import makes a new one", file=sys.stderr)


def _parse(file: Path) -> dict[int, _FileEntry]:
    lines: dict[int, _FileEntry] = {}
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        if text.strip():
            try:
                lines[number] = msgspec.json.decode(text, type=_FileEntry)
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"{file}, line {number}: {error}") from None
    return lines


async def _import(lines: dict[int, _FileEntry], state: Path | None, *, as_json: bool) -> None:
    async with open_admin_services(settings(state)) as office:
        registry = office.registry
        seen: dict[str, int] = {}
        for number, line in lines.items():
            try:
                registry.check_registration(line.registration())
            except InvalidRequest as error:
                raise InvalidRequest(f"line {number}: {error.description}") from None
            if line.client_id in seen:
                raise InvalidRequest(f"line {number}: {line.client_id} is in line {seen[line.client_id]} already")
            if await find_device(registry, line.client_id):
                raise InvalidRequest(f"line {number}: {line.client_id} is registered already")
            seen[line.client_id] = number
        for line in lines.values():
            shown = as_added(await _add(office, line))
            # At once: a secret is shown only this time, and the next line may fail.
            print(json.dumps(shown) if as_json else "  ".join(shown.values()), flush=True)


async def _add(office: AdminServices, line: _FileEntry) -> Added:
    added = await office.registry.add_device(line.registration(), actor=office.actor)
    if line.disabled:
        await office.registry.disable_device(line.client_id, actor=office.actor)
    return added


async def _export(state: Path | None) -> int:
    without = 0
    async with open_registry(settings(state)) as registry:
        async for device in registry.iterate_devices():
            key = await registry.public_key(device.client_id)
            print(json.dumps({**as_record(device), **({"public_key": key.reveal()} if key else {})}))
            without += key is None
    return without
