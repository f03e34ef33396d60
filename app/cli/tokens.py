"""``tokens``: what is live, what is revoked, and how far the cloud has been told."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from app.cli.setup import JsonOption, StateOption, open_admin_services, settings
from app.cli.times import shown_span, shown_time

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.revocations import Overview
    from app.store.index import TokenPage
    from app.store.records import TokenRecord

_MOST: Final = 100_000
_PAGE: Final = 500
_Result = TypeVar("_Result")

app = typer.Typer(no_args_is_help=True, help="Tokens: what is live, and taking them back.")

HandleArgument = Annotated[str, typer.Argument(metavar="HANDLE", help="Public name of a token, as in the list.")]
ClientIdOption = Annotated[str | None, typer.Option(help="What this device holds.", show_default=False)]
RoleOption = Annotated[str | None, typer.Option(help="What was issued under this role.", show_default=False)]
TopicOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        help="What could use some topic of it: pub:FILTER, sub:FILTER, or FILTER for either.",
        show_default=False,
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, max=_MOST, help="Most to show.")]


class QueueState(StrEnum):
    """The queues towards the cloud."""

    QUEUED = "queued"
    DELAYED = "delayed"
    FAILED = "failed"


_TOLD: Final = {
    "": "",
    "queued": "still valid at the broker until the cloud confirms",
    "confirmed": "the cloud has confirmed",
    "failed": "still valid at the broker, the cloud refused: tokens retry, or tokens drop",
    "lapsed": "expired before the cloud confirmed",
    "dropped": "given up: valid at the broker until it expires",
}


@app.command("list")
def list_tokens(
    client_id: ClientIdOption = None,
    role: RoleOption = None,
    topic: TopicOption = None,
    limit: LimitOption = 100,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List live tokens, the first to expire first."""
    from app.service.revocations import select  # noqa: PLC0415 - `--help` stays quick

    narrowed = any(each is not None for each in (client_id, role, topic))
    selection = select(client_id=client_id, role=role, topic=topic, everything=not narrowed)

    async def find(office: AdminServices) -> tuple[list[TokenRecord], bool]:
        return await _pages(lambda cursor, most: office.revocations.list_tokens(selection, cursor, most), limit)

    records, more = do(state, find)
    if as_json:
        print(json.dumps([_record(record) for record in records]))
    else:
        _show_lines(records)
    tell_of_more(limit, more=more)


@app.command()
def show(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show what is known of a token, whatever became of it."""
    record = do(state, lambda office: office.revocations.get_token(handle))
    if as_json:
        print(json.dumps(_record(record)))
        return
    expires = shown_time(record.expires_at_ms) if record.expires_at_ms else ""
    for name, value in {
        "handle": record.handle,
        "client ID": record.client_id,
        "role": record.role,
        "scope": record.scope,
        "state": state_of(record),
        "issued": shown_time(record.issued_at_ms) if record.issued_at_ms else "",
        "expires": expires,
    }.items():
        print(f"{name:<10} {value}".rstrip())


@app.command()
def queue(
    which: Annotated[
        QueueState, typer.Option("--which", help="Waiting for their turn, put off or under way, or failed.")
    ] = QueueState.QUEUED,
    limit: LimitOption = 20,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the cloud has still to be told, the next first."""

    async def look(office: AdminServices) -> tuple[list[TokenRecord], bool, Overview]:
        records, more = await _pages(
            lambda cursor, most: office.revocations.list_queue(which.value, cursor, most), limit
        )
        return records, more, await office.revocations.queue_overview()

    records, more, overview = do(state, look)
    if as_json:
        figures = {"queued": overview.queued, "failed": overview.failed, "est_empty_s": overview.est_empty_s}
        print(json.dumps({"overview": figures, "items": [_record(record) for record in records]}))
    else:
        print(f"{overview.queued} queued, empty in about {shown_span(overview.est_empty_s)}; {overview.failed} failed")
        _show_lines(records)
    tell_of_more(limit, more=more)


@app.command()
def retry(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Queue a revocation that failed again."""
    _show_resolved(
        do(state, lambda office: office.revocations.retry_revocation(handle, actor=office.actor)), as_json=as_json
    )


@app.command()
def drop(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Give a revocation that failed up: the token stays good at the broker until it expires."""
    _show_resolved(
        do(state, lambda office: office.revocations.drop_revocation(handle, actor=office.actor)), as_json=as_json
    )


def do(state: Path | None, verb: Callable[[AdminServices], Awaitable[_Result]]) -> _Result:
    """Run a verb on the set-up at ``state``. Raises ``Misconfigured``, and what the verb raises."""

    async def run() -> _Result:
        async with open_admin_services(settings(state)) as office:
            return await verb(office)

    return asyncio.run(run())


def state_of(record: TokenRecord) -> str:
    """Say how things stand with a token."""
    told = _TOLD.get(record.revocation, record.revocation)
    return f"{record.state}: {told}" if told else record.state


def tell_of_more(limit: int, *, more: bool) -> None:
    """Say that a list was cut short, beside what a machine reads as well: it would take a part for the whole."""
    if more:
        print(f"and more: --limit {limit} was reached", file=sys.stderr)


async def _pages(page_of: Callable[[str, int], Awaitable[TokenPage]], limit: int) -> tuple[list[TokenRecord], bool]:
    """Gather pages up to ``limit`` records; tell whether there may be more."""
    records: list[TokenRecord] = []
    cursor = ""
    while len(records) < limit:
        page = await page_of(cursor, min(_PAGE, limit - len(records)))
        records += page.records
        cursor = page.next_cursor
        if not cursor:
            return records, False
    return records, True


def _record(record: TokenRecord) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    from app.web.api_tokens import TokenView  # noqa: PLC0415 - one form for both, and no web server for people

    shown: dict[str, Any] = msgspec.to_builtins(TokenView.of(record))
    return shown


def _show_lines(records: list[TokenRecord]) -> None:
    """Print one line each, uncut: handles are copied from here."""
    for record in records:
        until = shown_time(record.expires_at_ms) if record.expires_at_ms else "being applied for  "
        revocation = f"[{record.revocation}]" if record.revocation else ""
        said = (record.handle, until, f"{record.client_id:<24}", f"{record.role:<10}", record.scope, revocation)
        print("  ".join(said).rstrip())


def _show_resolved(record: TokenRecord, *, as_json: bool) -> None:
    print(json.dumps(_record(record)) if as_json else f"{record.handle} {state_of(record)}")
