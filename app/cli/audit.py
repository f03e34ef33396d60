"""``audit``: who did what."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
from dataclasses import asdict
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
    client_id: Annotated[str, typer.Option(help="Lines about this device.")] = "",
    who: Annotated[str, typer.Option(help="Whose acts: device:ID, key:NAME, cli:USER, cloud, server, stranger.")] = "",
    what: Annotated[str, typer.Option(help="granted, refused, revoked, confirmed, device_disabled and so on.")] = "",
    handle: Annotated[str, typer.Option(help="Lines about this token.")] = "",
    token: Annotated[
        str, typer.Option(metavar="-", help="Lines about the token on standard input, until 10 min after its expiry.")
    ] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="2h: not older than that; or an ISO 8601 time.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="The same, for what is older.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most lines to show.")] = 100,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was granted, refused, revoked and changed, the newest first."""
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
        raise InvalidRequest("name the token by --handle or by --token, not by both")
    in_hand = _read_token(token) if token else None
    lines = asyncio.run(_search(state, query, in_hand, limit))
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
    else:
        _show(lines)


def _read_token(option: str) -> Secret:
    if option != "-":
        # Whatever stands in a command line can be read by everyone on the machine, and stays in the shell's history.
        raise InvalidRequest("write --token - and give the token on standard input")
    return Secret(getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.read())


async def _search(state: Path | None, query: AuditFilter, in_hand: Secret | None, limit: int) -> list[AuditEntry]:
    async with open_admin_services(settings(state)) as office:
        if in_hand is not None:
            query = await office.audit_log.filter_for_token(query, in_hand)
        lines: list[AuditEntry] = []
        cursor = ""
        while len(lines) < limit:
            page = await office.audit_log.search_events(query, cursor=cursor, limit=min(_PAGE, limit - len(lines)))
            lines += page.entries
            if page.cursor is None:
                break
            cursor = str(page.cursor)
        return lines


def _show(lines: list[AuditEntry]) -> None:
    """Print one line each, uncut: they are copied from, so no table is squeezed into a terminal's width."""
    for line in lines:
        said = (shown_time(line.at_ms), f"{line.what:<15}", f"{line.who:<28}", line.client_id, line.handle, line.detail)
        print("  ".join(cell for cell in said if cell).rstrip())
