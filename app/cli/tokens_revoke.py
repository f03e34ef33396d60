"""``tokens revoke``: what it would take is counted and shown first, then asked for, done, and followed to its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.job_progress import follow_job, print_job
from app.cli.setup import JsonOption, StateOption
from app.cli.tokens import ClientIdOption, RoleOption, TopicOption, do, state_of
from app.errors import InvalidRequest
from app.model.devices import CLIENT_ID_MARK
from app.model.selections import EVERYTHING_WORD, Selection, SelectionKind
from app.store.redis_keys import SHARDS

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.revocations import RevokeResult
    from app.store.jobs import Job


def revoke(
    handle: Annotated[str | None, typer.Argument(metavar="HANDLE", show_default=False, help="One token.")] = None,
    client_id: ClientIdOption = None,
    role: RoleOption = None,
    topic: TopicOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every token of every device.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once it is begun, without following it.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take tokens back: one, a device's, a role's, those for a topic, or all.

    Once this is answered no instance hands them out; the cloud is told by the running instances. Devices are not
    locked out by it and may apply anew: `devices disable` stops one.
    """
    from app.service.revocations import RevokeResult, select  # noqa: PLC0415 - `--help` stays quick

    selection = select(handle=handle, client_id=client_id, role=role, topic=topic, everything=everything)
    if handle and CLIENT_ID_MARK in handle:
        raise InvalidRequest("this is a client ID: for what the device holds write --client-id")
    # Whoever reads JSON reads standard output alone.
    say = partial(print, file=sys.stderr if as_json else sys.stdout)
    counted, what = do(state, lambda office: _look(office, selection))
    if selection.kind is not SelectionKind.HANDLE or counted:
        say(what)
        if not yes:
            _ask(selection, say)
    done = _start(state, selection, counted)
    if isinstance(done, RevokeResult):
        _show_revoked(done, what, as_json=as_json)
    elif no_wait:
        print_job(done, as_json=as_json)
    else:
        say(f"job {done.id}; Ctrl-C leaves it running")
        follow_job(state, done.id, as_json=as_json)


async def _look(office: AdminServices, selection: Selection) -> tuple[int, str]:
    """Count, and say what would be done."""
    if selection.kind is SelectionKind.HANDLE:
        record = await office.revocations.get_token(selection.value)
        if record.state == "revoked":
            return 0, f"{record.handle} was revoked before; {state_of(record)}"
        return 1, (
            f"This revokes one token of {record.client_id}: {record.scope}\n"
            f"The device is not locked out: it may apply for a new one. {_lock_out(record.client_id)}"
        )
    counted = await office.revocations.count_tokens(selection, _counting if sys.stderr.isatty() else None)
    tokens = "1 token" if counted == 1 else f"{counted:,} tokens"
    match selection.kind:
        case SelectionKind.CLIENT_ID:
            client_id = selection.value
            return counted, (
                f"This revokes {tokens} of {client_id}, with what it is applying for.\n"
                f"The device is not locked out: it may apply for a new one. {_lock_out(client_id)}"
            )
        case SelectionKind.TOPIC:
            whose, when = (
                f" that could use {selection.value}",
                "Each is denied as the job comes to its part of the store",
            )
        case SelectionKind.ROLE:
            whose, when = f" of role {selection.value}", "All are denied at once"
        case _:
            whose, when = ": every one of every device", "All are denied at once"
    return counted, (
        f"This revokes {tokens}{whose}, with what is being applied for.\n"
        f"{when}; the cloud is told of each in turn, by the running instances.\n"
        f"Their devices are not locked out: each may apply for a new one. {_lock_out('CLIENT_ID')}"
    )


def _counting(shards: int, found: int) -> None:
    print(f"\rcounting: {found:,} in {shards} of {SHARDS} parts", end="\n" if shards == SHARDS else "", file=sys.stderr)


def _lock_out(client_id: str) -> str:
    return f"To stop one: devices disable {client_id}"


def _ask(selection: Selection, say: Callable[..., None]) -> None:
    """Have the person confirm. Raises ``InvalidRequest`` if nobody does."""
    everything = selection.kind is SelectionKind.EVERYTHING
    say(f"Type {EVERYTHING_WORD} to go on: " if everything else "Revoke? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        say()
        raise InvalidRequest("nothing is revoked: nobody is there to ask, so say --yes")
    if answer.strip().lower() not in ({EVERYTHING_WORD} if everything else {"y", "yes"}):
        raise InvalidRequest("nothing is revoked")


def _start(state: Path | None, selection: Selection, counted: int) -> RevokeResult | Job:
    async def start(office: AdminServices) -> RevokeResult | Job:
        return await office.revocations.revoke_selection(selection, actor=office.actor, counted=counted)

    try:
        return do(state, start)
    except KeyboardInterrupt:
        print("it may have begun: jobs list, or tokens show, tells", file=sys.stderr)
        raise


def _show_revoked(revoked: RevokeResult, what: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"client_id": revoked.client_id, "handle": revoked.handle, "revoked": revoked.count}))
    elif revoked.handle:
        queued = "revoked; still valid at the broker until the cloud confirms, which tokens show tells"
        print(f"{revoked.handle} is {queued}" if revoked.count else what)
    else:
        tokens = "1 token" if revoked.count == 1 else f"{revoked.count} tokens"
        print(f"{revoked.client_id}: {tokens} revoked, still valid at the broker until the cloud confirms")
