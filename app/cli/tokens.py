"""``tokens``: live tokens, revoked ones, and the queue of revocations for the cloud."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.output import print_fields, print_more_exist, print_result
from app.cli.setup import JsonOption, StateOption, run_with_services
from app.cli.times import shown_span, shown_time
from app.errors import InvalidRequest

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.revocations import Overview
    from app.store.index import TokenPage
    from app.store.records import TokenRecord

_MAX_LIMIT: Final = 100_000
_PAGE: Final = 500

app = typer.Typer(no_args_is_help=True, help="Tokens: list, show and revoke them.")

HandleArgument = Annotated[
    str, typer.Argument(metavar="HANDLE", help="The public name of a token, as `tokens list` shows it.")
]
ClientIdOption = Annotated[
    str | None, typer.Option(metavar="CLIENT_ID", help="The tokens of this device.", show_default=False)
]
RoleOption = Annotated[
    str | None, typer.Option(metavar="ROLE", help="The tokens issued under this role.", show_default=False)
]
TopicOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        help="The tokens that can use some topic of it: pub:FILTER, sub:FILTER, or FILTER for either.",
        show_default=False,
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, max=_MAX_LIMIT, metavar="N", help="How many to show at most.")]


class QueueState(StrEnum):
    """The states of a revocation on its way to the cloud."""

    QUEUED = "queued"
    DELAYED = "delayed"
    FAILED = "failed"


_REVOCATION_NOTES: Final = {
    "": "",
    "queued": "still valid at the broker until the cloud confirms",
    "confirmed": "the cloud has confirmed",
    "failed": "still valid at the broker, because the cloud refused: use tokens retry or tokens drop",
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

    options = {"--client-id": client_id, "--role": role, "--topic": topic}
    given = check_selection(options)
    if len(given) > 1:
        raise InvalidRequest(f"give only one of {', '.join(options)}")
    selection = select(client_id=client_id, role=role, topic=topic, everything=not given)

    async def read_pages(services: AdminServices) -> tuple[list[TokenRecord], bool]:
        return await _read_pages(lambda cursor, most: services.revocations.list_tokens(selection, cursor, most), limit)

    records, more = run_with_services(state, read_pages)
    if as_json:
        print(json.dumps([_record(record) for record in records]))
    else:
        _print_lines(records)
    print_more_exist(limit, more=more)


@app.command("show")
def show_token(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show the record of a token, also of a revoked one."""
    record = run_with_services(state, lambda services: services.revocations.get_token(handle))
    if as_json:
        print(json.dumps(_record(record)))
        return
    print_fields(
        {
            "handle": record.handle,
            "client ID": record.client_id,
            "role": record.role,
            "scope": record.scope,
            "state": describe_state(record),
            "issued": shown_time(record.issued_at_ms),
            "expires": shown_time(record.expires_at_ms),
        }
    )


@app.command("queue")
def show_queue(
    which: Annotated[
        QueueState, typer.Option("--which", help="Waiting; delayed or being sent; or refused by the cloud.")
    ] = QueueState.QUEUED,
    limit: LimitOption = 20,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the queue of revocations for the cloud, the next first."""

    async def read_queue(services: AdminServices) -> tuple[list[TokenRecord], bool, Overview]:
        records, more = await _read_pages(
            lambda cursor, most: services.revocations.list_queue(which.value, cursor, most), limit
        )
        return records, more, await services.revocations.queue_overview()

    records, more, overview = run_with_services(state, read_queue)
    if as_json:
        figures = {"queued": overview.queued, "failed": overview.failed, "est_empty_s": overview.est_empty_s}
        print(json.dumps({"overview": figures, "items": [_record(record) for record in records]}))
    else:
        print(f"{overview.queued} queued, empty in about {shown_span(overview.est_empty_s)}; {overview.failed} failed")
        _print_lines(records)
    print_more_exist(limit, more=more)


@app.command("retry")
def retry_revocation(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Queue a failed revocation again."""
    record = run_with_services(
        state, lambda services: services.revocations.retry_revocation(handle, actor=services.actor)
    )
    print_result(_record(record), f"{record.handle} {describe_state(record)}", as_json=as_json)


@app.command("drop")
def drop_revocation(handle: HandleArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Give up a failed revocation. The token stays valid at the broker until it expires."""
    record = run_with_services(
        state, lambda services: services.revocations.drop_revocation(handle, actor=services.actor)
    )
    print_result(_record(record), f"{record.handle} {describe_state(record)}", as_json=as_json)


def check_selection(options: dict[str, str | None]) -> list[str]:
    """Return the options that are given. Raises ``InvalidRequest`` for an empty one."""
    given = [name for name, value in options.items() if value is not None]
    for name in given:
        if not options[name]:
            # An empty shell variable must not select more than was meant.
            raise InvalidRequest(f"{name} is empty: give it a value or leave it out")
    return given


def describe_state(record: TokenRecord) -> str:
    """Return the state of a token in words."""
    note = _REVOCATION_NOTES.get(record.revocation, record.revocation)
    return f"{record.state}: {note}" if note else record.state


async def _read_pages(
    read_page: Callable[[str, int], Awaitable[TokenPage]], limit: int
) -> tuple[list[TokenRecord], bool]:
    """Read pages until there are ``limit`` records; return the records, and whether there may be more."""
    records: list[TokenRecord] = []
    cursor = ""
    while len(records) < limit:
        page = await read_page(cursor, min(_PAGE, limit - len(records)))
        records += page.records
        cursor = page.next_cursor
        if not cursor:
            return records, False
    return records, True


def _record(record: TokenRecord) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    from app.web.api_tokens import TokenView  # noqa: PLC0415 - the API's form, without its web server for people

    view: dict[str, Any] = msgspec.to_builtins(TokenView.of(record))
    return view


def _print_lines(records: list[TokenRecord]) -> None:
    """Print one uncut line for each token: people copy the handles."""
    for record in records:
        expires = shown_time(record.expires_at_ms) or "being applied for  "
        revocation = f"[{record.revocation}]" if record.revocation else ""
        cells = (record.handle, expires, f"{record.client_id:<24}", f"{record.role:<10}", record.scope, revocation)
        print("  ".join(cells).rstrip())
