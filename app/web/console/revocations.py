"""``/admin/revocations``: revocations that the cloud has not confirmed; ``/admin/jobs``: bulk revocations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import urlencode

from app.store.index import TokenPage
from app.store.records import TokenRecord
from app.store.revocations import Queue
from app.web.console import tokens
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel
from app.web.route import AdminRequest

PAGE: Final = 50
SOME: Final = 10
"""How many of each list are on the page that shows all lists."""

ADDRESS: Final = f"{PREFIX}/revocations"


class RevocationsPageQuery(FormModel, frozen=True):
    """One list of the page, from ``cursor`` on; without a name the beginning of each."""

    show: Literal["", "failed", "delayed", "queued", "jobs"] = ""
    cursor: str = ""


async def show_revocations(request: AdminRequest, query: RevocationsPageQuery) -> PageContent:
    """Show the queue of revocations and the bulk revocations of the last month."""
    overview = await request.services.revocations.queue_overview()
    lists: dict[str, Sequence[object]]
    if query.show == "jobs":
        jobs = await request.services.jobs.list_jobs(query.cursor, PAGE)
        lists, more = {"jobs": jobs.jobs}, {"jobs": _next("jobs", jobs.next_cursor)}
    elif query.show:
        page = await request.services.revocations.list_queue(query.show, query.cursor, PAGE)
        lists, more = {query.show: _rows(page)}, {query.show: _next(query.show, page.next_cursor)}
    else:
        lists, more = await _first_of_each(request)
    return PageContent.of("revocations.html", show=query.show, overview=overview, lists=lists, more=more)


async def show_job(request: AdminRequest) -> PageContent:
    """Show how far a bulk revocation is."""
    job = await request.services.jobs.get_job(request.path["job"])
    return PageContent.of("job.html", job=job, overview=await request.services.revocations.queue_overview())


async def retry_revocation(request: AdminRequest) -> Redirect:
    """Queue a failed revocation again."""
    record = await request.services.revocations.retry_revocation(request.path["handle"], actor=request.actor)
    return Redirect(f"{tokens.ADDRESS}/{record.handle}", done="retried")


async def drop_revocation(request: AdminRequest) -> Redirect:
    """Give a failed revocation up."""
    record = await request.services.revocations.drop_revocation(request.path["handle"], actor=request.actor)
    return Redirect(f"{tokens.ADDRESS}/{record.handle}", done="dropped")


async def _first_of_each(request: AdminRequest) -> tuple[dict[str, Sequence[object]], dict[str, str]]:
    """Return the beginning of each list, and the addresses of those that go on."""
    lists: dict[str, Sequence[object]] = {}
    more: dict[str, str] = {}
    queues: tuple[Queue, ...] = ("failed", "delayed", "queued")
    for name in queues:
        page = await request.services.revocations.list_queue(name, limit=SOME)
        lists[name], more[name] = _rows(page), _address(name) if page.next_cursor else ""
    jobs = await request.services.jobs.list_jobs(limit=SOME)
    lists["jobs"], more["jobs"] = jobs.jobs, _address("jobs") if jobs.next_cursor else ""
    return lists, more


def _rows(page: TokenPage) -> list[tuple[str, TokenRecord]]:
    return [(record.handle, record) for record in page.records]


def _next(name: str, cursor: str) -> str:
    return _address(name, cursor) if cursor else ""


def _address(name: str, cursor: str = "") -> str:
    return f"{ADDRESS}?{urlencode({'show': name} | ({'cursor': cursor} if cursor else {}))}"
