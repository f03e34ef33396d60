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
from app.service.registry import Registry
from app.store.index import Progress, TokenIndex, TokenPage
from app.store.jobs import Job
from app.store.records import Priority, TokenRecord
from app.store.redis_keys import Handle, Shard
from app.store.retry import retry_until
from app.store.revocations import Queue, RevocationQueue
from app.store.tokens import Tokens

REVOKE_WITHIN_S: Final = 1.0
SEARCH_BUDGET_S: Final = 1.0
"""So long at most a page of a topic's tokens is searched for, before the caller gets what there is."""

NO_TOKENS_LEFT: Final = _(
    "none of these tokens is known: they were not issued here, or expired more than %(minutes)s minutes ago", minutes=10
)

SURVEY_BUDGET_S: Final = 1.0
"""So long at most is counted for somebody who is about to revoke; nobody in a hurry waits for a last digit."""


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
    """A revoke of one token or device: from now on no instance hands it out.

    ``count`` is how many tokens and applications it took; 0: they were revoked already. ``handle`` is empty for a
    device.
    """

    client_id: str
    handle: str
    count: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a revoke would take, and in how many seconds the cloud would have been told, at the present queue.

    Tokens include what is being applied for. Where a number is not ``exact`` there was no time to count to the end.
    """

    tokens: int
    devices: int
    est_told_s: float
    tokens_exact: bool = True
    devices_exact: bool = True


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue towards the cloud. ``est_empty_s`` is when it will be empty, in seconds, if nothing is added."""

    queued: int
    failed: int
    est_empty_s: float


class Revocations:
    """What operators and services do about tokens."""

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
        """``pace`` is in RevokeTokens a second; ``wake`` tells a delivery in this process of what is queued."""
        self._tokens = tokens
        self._index = index
        self._queue = queue
        self._registry = registry
        self._jobs = jobs
        self._pace = pace
        self._wake = wake

    async def count_tokens(self, selection: Selection, progress: Progress | None = None) -> int:
        """Count what a revoke would take, to be shown before it is done; ``progress`` is told for a topic.

        Raises ``NotFound`` as ``revoke_selection`` would, and ``Unavailable``.
        """
        if selection.kind is SelectionKind.HANDLE:
            await self.get_token(selection.value)
        if selection.kind is SelectionKind.CLIENT_ID:
            await self._registry.get_device(selection.value)
        return await self._index.count_tokens(selection, progress)

    async def survey(self, selection: Selection) -> Prospect:
        """Tell what a revoke of more than single tokens would take. Raises ``NotFound`` as it does, ``Unavailable``.

        Within ``SURVEY_BUDGET_S``: a large topic, and the devices of a large role, are counted as far as that goes.
        """
        if selection.kind is SelectionKind.CLIENT_ID:
            await self._registry.get_device(selection.value)
        found = await self._index.survey(selection, budget_s=SURVEY_BUDGET_S)
        exact = found.whole or selection.kind is not SelectionKind.TOPIC
        tokens = (
            found.tokens
            if found.whole or selection.kind is SelectionKind.TOPIC
            else await self._index.count_tokens(selection)
        )
        priority = Priority.OPERATOR if selection.kind is SelectionKind.CLIENT_ID else Priority.BULK
        est_told_s = await self._told_in_s(tokens, found.scopes, priority)
        return Prospect(tokens, found.devices, est_told_s, tokens_exact=exact, devices_exact=found.whole)

    async def survey_each(self, records: Sequence[TokenRecord]) -> Prospect:
        """Tell what a revoke of these would take. Raises ``Unavailable``."""
        standing = [record for record in records if record.state != "revoked"]
        est_told_s = await self._told_in_s(len(standing), [record.scope for record in standing], Priority.OPERATOR)
        return Prospect(len(standing), len({record.client_id for record in standing}), est_told_s)

    async def _told_in_s(self, tokens: int, scopes: Sequence[str], priority: Priority) -> float:
        return (await self._queue.count_ahead(priority) + tokens) * _calls_each(scopes) / self._pace

    async def how_far(self, cursor: str) -> float:
        """Tell which share of all live tokens a list has behind it. Raises ``InvalidRequest`` and ``Unavailable``."""
        try:
            behind, all_ = await self._index.count_passed(cursor)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return behind / all_ if all_ else 1.0

    async def list_tokens(self, selection: Selection, cursor: str = "", limit: int = 50) -> TokenPage:
        """List live tokens, the first to expire first. A page may be short, or empty, and still have a next.

        Raises ``InvalidRequest`` for a cursor that is none, and ``Unavailable``.
        """
        try:
            return await self._index.list_tokens(selection, cursor, limit, budget_s=SEARCH_BUDGET_S)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    async def get_token(self, handle: str) -> TokenRecord:
        """Tell what is known of a token, whatever became of it. Raises ``NotFound`` and ``Unavailable``."""
        record = await self._tokens.read_token(handle)
        if record is None:
            raise NotFound("there is no such token")
        return record

    async def get_tokens(self, handles: Sequence[str]) -> list[TokenRecord | None]:
        """Tell what is known of each of some handles, whatever became of it. Raises ``Unavailable``."""
        known = [Handle(handle) for handle in handles if Shard.of_handle(handle)]
        records = dict(zip(known, await self._tokens.read_tokens(known), strict=True)) if known else {}
        return [records.get(Handle(handle)) for handle in handles]

    async def revoke_tokens(self, handles: Sequence[str], *, actor: Actor) -> None:
        """Revoke each token at once; one that is gone meanwhile needs no revoking.

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
        """Revoke a selection for ``actor``: one token or device at once, anything larger as a job.

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
        """Drop a failed revocation: the token is good at the broker until it expires. Raises as the method before."""
        return await self._resolve(handle, "drop", actor)

    async def _resolve(self, handle: str, verb: Literal["retry", "drop"], actor: Actor) -> TokenRecord:
        if not await self._queue.resolve_revocation(handle, verb, actor=actor):
            raise NotFound("there is no failed revocation of this handle")
        self._wake()
        return await self.get_token(handle)

    async def list_queue(self, queue: Queue, cursor: str = "", limit: int = 50) -> TokenPage:
        """List the revocations of one queue in its order. Raises as ``list_tokens``."""
        try:
            return await self._index.list_records(self._queue.queue_keys(queue), cursor, limit)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None

    async def queue_overview(self) -> Overview:
        """Count the queue, and estimate when it will be empty. Raises ``Unavailable``."""
        backlog = await self._queue.read_backlog()
        # Reckoned from those that go next.
        return Overview(backlog.queued, backlog.failed, backlog.queued * _calls_each(backlog.scopes) / self._pace)


def _calls_each(scopes: Sequence[str]) -> float:
    """Return how many calls a token takes on average: it may be two cloud tokens."""
    calls = [len(parse_scope(scope).split()) for scope in scopes]
    return sum(calls) / len(calls) if calls else 1
