"""``tokens revoke``: counts and shows the tokens first, then asks, revokes, and follows the job to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.job_progress import follow_job, print_job
from app.cli.output import count_of_tokens, print_result
from app.cli.setup import JsonOption, StateOption, run_with_services
from app.cli.tokens import ClientIdOption, RoleOption, TopicOption, check_selection, describe_state
from app.errors import InvalidRequest
from app.model.devices import CLIENT_ID_MARK
from app.model.selections import EVERYTHING_WORD, Selection, SelectionKind
from app.store.redis_keys import SHARDS

if TYPE_CHECKING:
    from app.assembly import AdminServices
    from app.service.revocations import RevokeResult
    from app.store.jobs import Job

_QUEUED = "revoked; still valid at the broker until the cloud confirms"


@dataclass(frozen=True)
class _Preview:
    """What a revoke would do. ``count`` is 0 for a token that is revoked already."""

    count: int
    text: str


def revoke_tokens(
    handle: Annotated[str | None, typer.Argument(metavar="HANDLE", show_default=False, help="One token.")] = None,
    client_id: ClientIdOption = None,
    role: RoleOption = None,
    topic: TopicOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All tokens of all devices.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Start the job, and do not follow it.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke tokens. Name one by its handle, or those of a device, of a role, for a topic, or all.

    When this returns, no instance hands them out any more; the running instances then revoke them at the cloud. The
    devices are not locked out and may apply for new tokens: `devices disable` locks one out.
    """
    from app.service.revocations import RevokeResult  # noqa: PLC0415 - `--help` stays quick

    selection = _selection(handle, client_id=client_id, role=role, topic=topic, everything=everything)
    # With --json, standard output has nothing but JSON.
    say = partial(print, file=sys.stderr if as_json else sys.stdout)
    preview = run_with_services(state, lambda services: _preview(services, selection))
    if selection.kind is not SelectionKind.HANDLE or preview.count:
        say(preview.text)
        if not yes:
            _confirm(selection, say)
    revoked = _revoke(state, selection, preview.count)
    if isinstance(revoked, RevokeResult):
        _print_revoked(revoked, preview, as_json=as_json)
    elif no_wait:
        print_job(revoked, as_json=as_json)
    else:
        say(f"job {revoked.id}; Ctrl-C leaves it running")
        follow_job(state, revoked.id, as_json=as_json)


def _selection(
    handle: str | None, *, client_id: str | None, role: str | None, topic: str | None, everything: bool
) -> Selection:
    """Read the selection in the words of the command. Raises ``InvalidRequest``."""
    from app.service.revocations import select  # noqa: PLC0415

    given = check_selection({"HANDLE": handle, "--client-id": client_id, "--role": role, "--topic": topic})
    if len(given) + everything != 1:
        raise InvalidRequest("name the tokens by exactly one of HANDLE, --client-id, --role, --topic and --all")
    if handle and CLIENT_ID_MARK in handle:
        raise InvalidRequest("this is a client ID, not a handle: for the tokens of a device use --client-id")
    return select(handle=handle, client_id=client_id, role=role, topic=topic, everything=everything)


async def _preview(services: AdminServices, selection: Selection) -> _Preview:
    """Count the tokens, and describe what the revoke would do."""
    if selection.kind is SelectionKind.HANDLE:
        record = await services.revocations.get_token(selection.value)
        if record.state == "revoked":
            return _Preview(0, f"{record.handle} was revoked before; {describe_state(record)}")
        return _Preview(
            1, _describe_device_revoke(f"one token of {record.client_id}: {record.scope}", record.client_id)
        )
    count = await services.revocations.count_tokens(selection, _print_counting if sys.stderr.isatty() else None)
    tokens = count_of_tokens(count)
    if selection.kind is SelectionKind.CLIENT_ID:
        client_id = selection.value
        return _Preview(
            count, _describe_device_revoke(f"{tokens} of {client_id}, with pending applications.", client_id)
        )
    return _Preview(count, _describe_job(selection, tokens))


def _describe_device_revoke(what: str, client_id: str) -> str:
    return (
        f"This revokes {what}\n"
        f"The device is not locked out: it may apply for a new token. To lock it out: devices disable {client_id}"
    )


def _describe_job(selection: Selection, tokens: str) -> str:
    when = "No instance hands them out from the start of the job"
    match selection.kind:
        case SelectionKind.TOPIC:
            which = f" that can use {selection.value}"
            when = "An instance may hand one out until the job reaches its part of the store"
        case SelectionKind.ROLE:
            which = f" of role {selection.value}"
        case _:
            which = " of all devices"
    return (
        f"This revokes {tokens}{which}, with pending applications.\n"
        f"{when}; the running instances revoke one after the other at the cloud.\n"
        "The devices are not locked out: each may apply for a new token. To lock one out: devices disable CLIENT_ID"
    )


def _print_counting(shards: int, found: int) -> None:
    end = "\n" if shards == SHARDS else ""
    print(f"\rcounting: {found:,} in {shards} of {SHARDS} parts of the store", end=end, file=sys.stderr)


def _confirm(selection: Selection, say: Callable[..., None]) -> None:
    """Ask the person to confirm. Raises ``InvalidRequest`` if they do not."""
    everything = selection.kind is SelectionKind.EVERYTHING
    say(f"Type {EVERYTHING_WORD} to go on: " if everything else "Revoke? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        say()
        raise InvalidRequest("nothing is revoked: there was no answer to the question; without a terminal use --yes")
    if answer.strip().lower() not in ({EVERYTHING_WORD} if everything else {"y", "yes"}):
        raise InvalidRequest("nothing is revoked: not confirmed")


def _revoke(state: Path | None, selection: Selection, counted: int) -> RevokeResult | Job:
    async def revoke_selection(services: AdminServices) -> RevokeResult | Job:
        return await services.revocations.revoke_selection(selection, actor=services.actor, counted=counted)

    try:
        return run_with_services(state, revoke_selection)
    except KeyboardInterrupt:
        print("the revoke may have started: see jobs list and tokens show", file=sys.stderr)
        raise


def _print_revoked(revoked: RevokeResult, preview: _Preview, *, as_json: bool) -> None:
    if revoked.handle:
        text = f"{revoked.handle} is {_QUEUED}: see tokens show" if revoked.count else preview.text
    else:
        text = f"{revoked.client_id}: {count_of_tokens(revoked.count)} {_QUEUED}"
    document = {"client_id": revoked.client_id, "handle": revoked.handle, "revoked": revoked.count}
    print_result(document, text, as_json=as_json)
