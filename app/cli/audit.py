"""``audit``: search the audit."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.setup import JsonOption, StateOption, open_admin_services, settings
from app.cli.times import moment_ms, shown_time
from app.errors import InvalidRequest
from app.model.secrets import Secret

if TYPE_CHECKING:
    from app.service.audit import AuditFilter
    from app.store.audit import AuditEntry

_MOST: Final = 100_000
_PAGE: Final = 1000


def audit(
    client_id: Annotated[str, typer.Option(metavar="CLIENT_ID", help="Only entries about this device.")] = "",
    who: Annotated[
        str,
        typer.Option(
            metavar="WHO",
            help="Only what device:ID, key:NAME, operator:NAME, cli:USER, job:ID, cloud, server or stranger did.",
        ),
    ] = "",
    what: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Only events of this kind: granted, refused, revoked, confirmed, device_disabled and others.",
        ),
    ] = "",
    handle: Annotated[str, typer.Option(metavar="HANDLE", help="Only entries about this token.")] = "",
    token: Annotated[
        str,
        typer.Option(
            metavar="-", help="Only entries about the token on standard input, until 10 minutes after it expires."
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="Only entries since then: 2h for the last two hours, or an ISO 8601 time."),
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only entries before then, written as for --since.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=_MOST, help="Show at most this many entries.")] = 100,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was granted, refused, revoked and changed, the newest first."""
    from app.service.audit import AuditFilter  # noqa: PLC0415 - `--help` stays quick

    now_ms = int(time.time() * 1000)
    query = AuditFilter(
        client_id=client_id,
        who=who,
        what=what,
        handle=handle,
        since_ms=moment_ms(since, "--since", now_ms) if since else 0,
        until_ms=moment_ms(until, "--until", now_ms) if until else 0,
    )
    if token and handle:
        raise InvalidRequest("use either --handle or --token, not both")
    entries = asyncio.run(_search(state, query, _read_token(token) if token else None, limit=limit))
    if as_json:
        print(json.dumps([{name: getattr(entry, name) for name in entry.__struct_fields__} for entry in entries]))
    else:
        _print_entries(entries)


def _read_token(option: str) -> Secret:
    if option != "-":
        # Every user of the machine can read a command line, and the shell's history keeps it.
        raise InvalidRequest("--token takes only -: give the token on standard input")
    return Secret(getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.read())


async def _search(state: Path | None, query: AuditFilter, token: Secret | None, *, limit: int) -> list[AuditEntry]:
    async with open_admin_services(settings(state)) as services:
        if token is not None:
            query = await services.audit_log.filter_for_token(query, token)
        entries: list[AuditEntry] = []
        cursor = ""
        while len(entries) < limit:
            most = min(_PAGE, limit - len(entries))
            page = await services.audit_log.search_events(query, cursor=cursor, limit=most)
            entries += page.entries
            if page.cursor is None:
                break
            cursor = str(page.cursor)
        return entries


def _print_entries(entries: list[AuditEntry]) -> None:
    """Print one line an entry. A table would be cut to the terminal's width, and people copy from here."""
    for entry in entries:
        revoked = f"revoked {entry.revoked}" if entry.revoked else ""
        cells = (f"{entry.what:<15}", f"{entry.who:<28}", entry.client_id, entry.handle, entry.detail, revoked)
        print("  ".join(cell for cell in (shown_time(entry.at_ms), *cells) if cell).rstrip())
