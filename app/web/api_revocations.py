"""``/api/revocations`` and ``/api/jobs``: revoking, and how far the cloud has confirmed it."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final, Self

from app.errors import InvalidRequest, Unavailable
from app.model.selections import EVERYTHING_WORD, Selection, SelectionKind
from app.model.text import _
from app.service.revocations import RevokeResult, select
from app.store.jobs import Job
from app.store.revocations import Queue
from app.web.api import ApiAnswer, ApiPage, Paging
from app.web.api_tokens import TokenView
from app.web.conversion import RequestModel
from app.web.route import AdminRequest

COUNT_WITHIN_S: Final = 8.0
"""A load balancer waits little longer."""


class NewRevocation(RequestModel, frozen=True):
    """What to revoke: exactly one of handle, client_id, role, topic, or all with ``confirm``.

    ``dry_run`` counts and does nothing.
    """

    handle: str | None = None
    client_id: str | None = None
    role: str | None = None
    topic: str | None = None
    all: bool = False
    confirm: str = ""
    dry_run: bool = False

    def selection(self) -> Selection:
        """Return what is meant. Raises ``InvalidRequest``, also if all is meant and not confirmed."""
        selection = select(
            handle=self.handle, client_id=self.client_id, role=self.role, topic=self.topic, everything=self.all
        )
        if selection.kind is SelectionKind.EVERYTHING and not self.dry_run and self.confirm != EVERYTHING_WORD:
            raise InvalidRequest(
                _("to revoke everything, send confirm with the value %(word)s as well", word=EVERYTHING_WORD)
            )
        return selection


class CountView(ApiAnswer, frozen=True):
    """How many live tokens and applications a revoke would include."""

    count: int


class RevokedView(ApiAnswer, frozen=True):
    """A token or a device's tokens are revoked; the cloud follows. ``revoked`` 0: they were revoked already."""

    client_id: str
    handle: str
    revoked: int

    @classmethod
    def of(cls, revoked: RevokeResult) -> Self:
        """Show what a revoke did."""
        return cls(revoked.client_id, revoked.handle, revoked.count)


class JobView(ApiAnswer, frozen=True):
    """A bulk revocation. A role or all is denied from the first moment, a topic in ``shards_done`` of ``shards``.

    ``counted`` before; ``queued`` since, of which so many are ``waiting`` for the cloud, and the rest ended in one of
    four ways. ``done_at_ms`` is 0 until all are queued; ``settled``: nothing more will happen by itself.
    """

    id: str
    selection: dict[str, str | bool]
    by: str
    created_at_ms: int
    done_at_ms: int
    settled: bool
    shards: int
    shards_done: int
    counted: int
    queued: int
    waiting: int
    confirmed: int
    failed: int
    lapsed: int
    dropped: int

    @classmethod
    def of(cls, job: Job) -> Self:
        """Show a job."""
        kind, value = job.selection.kind, job.selection.value
        return cls(
            id=job.id,
            selection={"all": True} if kind is SelectionKind.EVERYTHING else {kind.value: value},
            by=job.by,
            created_at_ms=job.created_at_ms,
            done_at_ms=job.done_at_ms,
            settled=job.settled,
            shards=job.shards,
            shards_done=job.shards_done,
            counted=job.counted,
            queued=job.queued,
            waiting=job.waiting,
            confirmed=job.confirmed,
            failed=job.failed,
            lapsed=job.lapsed,
            dropped=job.dropped,
        )


class JobStarted(JobView, frozen=True):
    """A bulk revocation was started."""

    status: ClassVar[int] = 202

    @property
    def location(self) -> str:
        """Where its progress is."""
        return f"/api/jobs/{self.id}"


class QueueQuery(Paging, frozen=True):
    """Which revocations: waiting for their turn, under way or put off, or failed."""

    state: Queue = "queued"


class OverviewView(ApiAnswer, frozen=True):
    """All revocations that wait for the cloud, those that failed, and in how many seconds none will be left."""

    queued: int
    failed: int
    est_empty_s: float


class QueueView(ApiAnswer, frozen=True):
    """Part of the queue in its order, as any page, and the whole of it in figures."""

    items: list[TokenView]
    next_cursor: str | None
    overview: OverviewView


async def revoke_tokens(request: AdminRequest, body: NewRevocation) -> CountView | RevokedView | JobStarted:
    """Revoke one token or device at once, or start a job for more."""
    selection = body.selection()
    if body.dry_run:
        return CountView(await _count(request, selection))
    done = await request.services.revocations.revoke_selection(selection, actor=request.actor)
    return JobStarted.of(done) if isinstance(done, Job) else RevokedView.of(done)


async def list_revocations(request: AdminRequest, query: QueueQuery) -> QueueView:
    """List the revocations that the cloud has not confirmed."""
    page = await request.services.revocations.list_queue(query.state, query.cursor, query.limit)
    overview = await request.services.revocations.queue_overview()
    return QueueView(
        [TokenView.of(record) for record in page.records],
        page.next_cursor or None,
        OverviewView(overview.queued, overview.failed, overview.est_empty_s),
    )


async def retry_revocation(request: AdminRequest) -> TokenView:
    """Queue a failed revocation again."""
    return TokenView.of(
        await request.services.revocations.retry_revocation(request.path["handle"], actor=request.actor)
    )


async def drop_revocation(request: AdminRequest) -> TokenView:
    """Give a failed revocation up: the token stays valid at the broker until it expires."""
    return TokenView.of(await request.services.revocations.drop_revocation(request.path["handle"], actor=request.actor))


async def list_jobs(request: AdminRequest, query: Paging) -> ApiPage[JobView]:
    """List the bulk revocations of the last month, the newest first."""
    page = await request.services.jobs.list_jobs(query.cursor, query.limit)
    return ApiPage([JobView.of(job) for job in page.jobs], page.next_cursor or None)


async def show_job(request: AdminRequest) -> JobView:
    """Show how far a bulk revocation is."""
    return JobView.of(await request.services.jobs.get_job(request.path["job"]))


async def _count(request: AdminRequest, selection: Selection) -> int:
    try:
        async with asyncio.timeout(COUNT_WITHIN_S):
            return await request.services.revocations.count_tokens(selection)
    except TimeoutError:
        raise Unavailable(
            _(
                "counting takes longer than %(seconds)s s: list the tokens page by page, or revoke without a count",
                seconds=f"{COUNT_WITHIN_S:g}",
            )
        ) from None
