"""Revoking as operators and services do: by handle, device, role, topic or everything; and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from app.errors import InvalidRequest, NotFound
from app.model.actors import Actor
from app.model.grants import parse_scope
from app.model.selections import MalformedSelection, Selection, SelectionKind
from app.model.text import _
from app.service.jobs import Jobs
from app.service.refusal_texts import UNKNOWN_TOKEN
from app.service.registry import Registry
from app.store.constants import RECORD_KEPT_MS
from app.store.index import Progress, TokenIndex, TokenPage
from app.store.jobs import Job
from app.store.records import Priority, TokenRecord
from app.store.redis_keys import Handle, Shard
from app.store.retry import retry_until
from app.store.revocations import Queue, RevocationQueue
from app.store.tokens import Tokens

REVOKE_WITHIN_S: Final = 1.0
SEARCH_BUDGET_S: Final = 1.0
"""How long a search for a page of a topic's tokens may take; it then returns what it found."""

NO_TOKENS_LEFT: Final = _(
    "none of these tokens is known: they were not issued here, or expired more than %(minutes)s minutes ago",
    minutes=RECORD_KEPT_MS // 60_000,
)

PREVIEW_BUDGET_S: Final = 1.0
"""How long a preview may count: an operator in a hurry does not wait for an exact number."""


def select(
    *,
    handle: str | None = None,
    client_id: str | None = None,
    role: str | None = None,
    topic: str | None = None,
    everything: bool = False,
) -> Selection:
    """Read a selection as ``Selection.parse``. Raises ``InvalidRequest``."""
    try:
        return Selection.parse(handle=handle, client_id=client_id, role=role, topic=topic, everything=everything)
    except MalformedSelection as error:
        raise InvalidRequest(error.text) from None


@dataclass(frozen=True, slots=True)
class RevokeResult:
    """One token or device was revoked: no instance hands its tokens out any more.

    ``count`` is how many tokens and applications that revoked; 0: they were revoked already. ``handle`` is empty for a
    device.
    """

    client_id: str
    handle: str
    count: int


@dataclass(frozen=True, slots=True)
class RevocationPreview:
    """What would be revoked, and in how many seconds the cloud would have confirmed it, with the current queue.

    Tokens include applications. Where a number is not ``exact``, there was no time to count all.
    """

    tokens: int
    devices: int
    est_confirmed_s: float
    tokens_exact: bool = True
    devices_exact: bool = True


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue of revocations; in ``est_empty_s`` seconds it is empty, if nothing is added."""

    queued: int
    failed: int
    est_empty_s: float


class Revocations:
    """What operators and services do with tokens."""

    def __init__(
        self,
        tokens: Tokens,
        index: TokenIndex,
        queue: RevocationQueue,
        registry: Registry,
        jobs: Jobs,
        *,
        pace: float,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """``pace`` is in RevokeToken calls a second; ``wake`` is called when something is queued."""
        self._tokens = tokens
        self._index = index
        self._queue = queue
        self._registry = registry
        self._jobs = jobs
        self._pace = pace
        self._wake = wake

    async def count_tokens(self, selection: Selection, progress: Progress | None = None) -> int:
        """Count what would be revoked; ``progress`` is called while a topic is searched.

        Raises ``NotFound`` as ``revoke_selection`` would, and ``Unavailable``.
        """
        if selection.kind is SelectionKind.HANDLE:
            await self.get_token(selection.value)
        if selection.kind is SelectionKind.CLIENT_ID:
            await self._registry.get_device(selection.value)
        return await self._index.count_tokens(selection, progress)

    async def preview_selection(self, selection: Selection) -> RevocationPreview:
        """Return what would be revoked. Raises ``NotFound`` as ``revoke_selection`` would, and ``Unavailable``.

        Within ``PREVIEW_BUDGET_S`` a large topic, and the devices of a large role, are counted as far as possible.
        """
        if selection.kind is SelectionKind.CLIENT_ID:
            await self._registry.get_device(selection.value)
        found = await self._index.survey(selection, budget_s=PREVIEW_BUDGET_S)
        exact = found.whole or selection.kind is not SelectionKind.TOPIC
        tokens = (
            found.tokens
            if found.whole or selection.kind is SelectionKind.TOPIC
            else await self._index.count_tokens(selection)
        )
        priority = Priority.OPERATOR if selection.kind is SelectionKind.CLIENT_ID else Priority.BULK
        est_confirmed_s = await self._estimate_s(tokens, found.scopes, priority)
        return RevocationPreview(tokens, found.devices, est_confirmed_s, tokens_exact=exact, devices_exact=found.whole)

    async def preview_tokens(self, records: Sequence[TokenRecord]) -> RevocationPreview:
        """Return what revoking these tokens would revoke. Raises ``Unavailable``."""
        unrevoked = [record for record in records if record.state != "revoked"]
        est_confirmed_s = await self._estimate_s(
            len(unrevoked), [record.scope for record in unrevoked], Priority.OPERATOR
        )
        return RevocationPreview(len(unrevoked), len({record.client_id for record in unrevoked}), est_confirmed_s)

    async def _estimate_s(self, tokens: int, scopes: Sequence[str], priority: Priority) -> float:
        return (await self._queue.count_ahead(priority) + tokens) * _calls_each(scopes) / self._pace

    async def search_progress(self, cursor: str) -> float:
        """Return the share of live tokens up to a cursor, 0 to 1. Raises ``InvalidCursor`` and ``Unavailable``."""
        passed, total = await self._index.count_passed(cursor)
        return passed / total if total else 1.0

    async def list_tokens(self, selection: Selection, cursor: str = "", limit: int = 50) -> TokenPage:
        """List live tokens, the first to expire first. A page may be short, or empty, and still have a next.

        Raises ``InvalidCursor`` and ``Unavailable``.
        """
        return await self._index.list_tokens(selection, cursor, limit, budget_s=SEARCH_BUDGET_S)

    async def get_token(self, handle: str) -> TokenRecord:
        """Return a token's record, live or revoked. Raises ``NotFound`` and ``Unavailable``."""
        record = await self._tokens.read_token(handle)
        if record is None:
            raise NotFound(UNKNOWN_TOKEN)
        return record

    async def get_tokens(self, handles: Sequence[str]) -> list[TokenRecord | None]:
        """Return the record of each handle, or None where there is none. Raises ``Unavailable``."""
        known = [Handle(handle) for handle in handles if Shard.of_handle(handle)]
        records = dict(zip(known, await self._tokens.read_tokens(known), strict=True)) if known else {}
        return [records.get(Handle(handle)) for handle in handles]

    async def revoke_tokens(self, handles: Sequence[str], *, actor: Actor) -> None:
        """Revoke tokens one by one; a token whose record is gone needs no revoking.

        Raises ``NotFound`` if all are gone, and ``Unavailable``.
        """
        revoked = False
        for handle in handles:
            with suppress(NotFound):
                await self._revoke_token(handle, actor)
                revoked = True
        if not revoked:
            raise NotFound(NO_TOKENS_LEFT)

    async def revoke_selection(
        self, selection: Selection, *, actor: Actor, counted: int | None = None, job: str = ""
    ) -> RevokeResult | Job:
        """Revoke a selection: one token or device at once, anything larger as a job.

        ``counted`` is what was shown before, if anything was, and ``job`` an ID generated then (``Jobs.start_job``). A
        topic is not counted here, because that takes a search and a revoke must not wait for it. Raises
        ``InvalidRequest`` for an ID that is another job's, ``NotFound`` and ``Unavailable``.
        """
        if selection.kind is SelectionKind.HANDLE:
            return await self._revoke_token(selection.value, actor)
        if selection.kind is SelectionKind.CLIENT_ID:
            count = await self._registry.revoke_device(selection.value, actor=actor)
            self._wake()
            return RevokeResult(selection.value, "", count)
        if counted is None:
            counted = 0 if selection.kind is SelectionKind.TOPIC else await self._index.count_tokens(selection)
        return await self._jobs.start_job(selection, actor=actor, counted=counted, job=job)

    async def _revoke_token(self, handle: str, actor: Actor) -> RevokeResult:
        record = await self.get_token(handle)
        changed = await retry_until(
            partial(self._tokens.revoke_token, record, Priority.OPERATOR, actor=actor), within_s=REVOKE_WITHIN_S
        )
        self._wake()
        return RevokeResult(record.client_id, handle, int(changed))

    async def retry_revocation(self, handle: str, *, actor: Actor) -> TokenRecord:
        """Queue a failed revocation again. Raises ``NotFound`` if it is not failed, and ``Unavailable``."""
        return await self._resolve(handle, "retry", actor)

    async def drop_revocation(self, handle: str, *, actor: Actor) -> TokenRecord:
        """Drop a failed revocation: the broker accepts the token until it expires. Raises as the method before."""
        return await self._resolve(handle, "drop", actor)

    async def _resolve(self, handle: str, verb: Literal["retry", "drop"], actor: Actor) -> TokenRecord:
        if not await self._queue.resolve_revocation(handle, verb, actor=actor):
            raise NotFound(_("this token has no failed revocation: only a failed one can be retried or dropped"))
        self._wake()
        return await self.get_token(handle)

    async def list_queue(self, queue: Queue, cursor: str = "", limit: int = 50) -> TokenPage:
        """List the revocations of one queue in its order. Raises as ``list_tokens``."""
        return await self._index.list_records(self._queue.queue_keys(queue), cursor, limit)

    async def queue_overview(self) -> Overview:
        """Count the queue, and estimate when it will be empty. Raises ``Unavailable``."""
        backlog = await self._queue.read_backlog()
        # Estimated from the revocations that go next.
        return Overview(backlog.queued, backlog.failed, backlog.queued * _calls_each(backlog.scopes) / self._pace)


def _calls_each(scopes: Sequence[str]) -> float:
    """Return how many calls a token takes on average: a token may consist of two cloud tokens."""
    calls = [len(parse_scope(scope).split()) for scope in scopes]
    return sum(calls) / len(calls) if calls else 1
