"""``/admin/revoke``: what exactly would be revoked, then revoking it; ``/admin/revoked``: how far the cloud is.

Between the two nothing is kept here: what is meant travels in the address, so that a reload and another browser show
the same.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from app.errors import InvalidRequest, NotFound
from app.model.selections import EVERYTHING_WORD, Selection, SelectionKind
from app.service.audit import AuditFilter
from app.service.revocations import select
from app.store.audit import EventKind
from app.store.jobs import Job, draw_id
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.console.tokens import ADDRESS, is_pending, query_of
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

MOST_HANDLES: Final = 50
"""As many as a page of tokens has boxes; more would not fit into every address either."""


class RevokePageQuery(FormModel, frozen=True):
    """What is meant: some tokens, or all of a device, of a role, for a topic filter, or altogether."""

    handle: list[str] = []  # noqa: RUF012 - msgspec gives each struct its own
    client_id: str | None = None
    role: str | None = None
    topic: str | None = None
    all: bool = False

    @property
    def handles(self) -> list[str]:
        """The tokens that are meant, each once. Raises ``InvalidRequest`` for too many, and beside anything else."""
        handles = list(dict.fromkeys(self.handle))
        if len(handles) > MOST_HANDLES:
            raise InvalidRequest(f"these are more than {MOST_HANDLES} tokens: select fewer, or all that match")
        if handles and (self.all or any(each is not None for each in (self.client_id, self.role, self.topic))):
            raise InvalidRequest("either some tokens or all that match can be revoked, not both at once")
        return handles

    def selection(self) -> Selection:
        """What is meant, if it is not some tokens. Raises ``InvalidRequest``."""
        if not self.all and self.client_id is None and self.role is None and self.topic is None:
            raise InvalidRequest("nothing is selected: tick a token, or search for those that are meant")
        return select(client_id=self.client_id, role=self.role, topic=self.topic, everything=self.all)


class RevokeForm(RevokePageQuery, frozen=True):
    """The same once it was confirmed: ``job`` is the ID that was drawn then, ``confirm`` the word for everything."""

    job: str = ""
    confirm: str = ""


class RevokedPageQuery(FormModel, frozen=True):
    """Which revocations: those of some tokens, or the last ones of a device."""

    handle: list[str] = []  # noqa: RUF012
    client_id: str | None = None


async def ask_to_revoke(request: AdminRequest, query: RevokePageQuery) -> PageContent:
    """Say exactly what a revoke would do, before it is done."""
    if handles := query.handles:
        return await _ask_for_tokens(request, handles)
    return await _ask_for(request, query.selection())


async def ask_to_revoke_again(request: AdminRequest, form: FormValues) -> PageContent:
    """Ask for the word once more; any other form that was refused says nothing that could be asked for again."""
    if "all" in form:
        return await _ask_for(request, select(everything=True), typed=form.get("confirm", ""))
    return PageContent.of("refused.html")


async def revoke_selection(request: AdminRequest, form: RevokeForm) -> Redirect:
    """Revoke: tokens and a device at once, anything else as the job that was shown."""
    if handles := form.handles:
        await _revoke_tokens(request, handles)
        return Redirect(f"{PREFIX}/revoked?{urlencode([('handle', handle) for handle in handles])}")
    selection = form.selection()
    if selection.kind is SelectionKind.EVERYTHING and form.confirm.strip() != EVERYTHING_WORD:
        raise InvalidRequest(f"to revoke everything, type {EVERYTHING_WORD} into the field")
    if selection.kind is not SelectionKind.CLIENT_ID and not form.job:
        # Without it a second click would begin a second job.
        raise InvalidRequest("this form has no job's ID: open the page that asks, and send its form")
    done = await request.services.revocations.revoke_selection(selection, actor=request.actor, job=form.job)
    if isinstance(done, Job):
        return Redirect(f"{PREFIX}/jobs/{done.id}")
    return Redirect(f"{PREFIX}/revoked", query={"client_id": done.client_id})


async def show_revoked(request: AdminRequest, query: RevokedPageQuery) -> PageContent:
    """Show how far the cloud is with some tokens, or with the last ones revoked of a device."""
    asked = RevokePageQuery(handle=query.handle, client_id=query.client_id)
    handles = asked.handles
    if not handles:
        client_id = asked.selection().value
        lines = (
            await request.services.audit_log.search_events(
                AuditFilter(client_id=client_id, what=EventKind.REVOKED), limit=MOST_HANDLES
            )
        ).entries
        handles = list(dict.fromkeys(line.handle for line in lines))
    records = await request.services.revocations.get_tokens(handles)
    known = [record for record in records if record]
    pending = [record for record in known if is_pending(record, request.now_ms)]
    overview = await request.services.revocations.queue_overview()
    return PageContent.of(
        "revoked.html",
        client_id=query.client_id,
        rows=[(handle, record) for handle, record in zip(handles, records, strict=True) if record or query.handle],
        pending=len(pending),
        failed=sum(record.revocation in {"failed", "dropped"} for record in known),
        live=sum(record.state == "live" and record.expires_at_ms > request.now_ms for record in known),
        standing=[record.handle for record in known if record.state != "revoked"],
        est_empty_s=overview.est_empty_s,
    )


async def _ask_for_tokens(request: AdminRequest, handles: list[str]) -> PageContent:
    records = await request.services.revocations.get_tokens(handles)
    known = [record for record in records if record]
    if not known:
        raise _gone()
    prospect = await request.services.revocations.survey_each(known)
    return PageContent.of(
        "revoke.html",
        selection=None,
        handles=handles,
        rows=list(zip(handles, records, strict=True)),
        devices=sorted({record.client_id for record in known if record.state != "revoked"}),
        prospect=prospect,
        back=f"{ADDRESS}/{known[0].handle}" if len(handles) == 1 else ADDRESS,
        fields=[("handle", record.handle) for record in known],
        job="",
        typed="",
    )


async def _ask_for(request: AdminRequest, selection: Selection, typed: str = "") -> PageContent:
    return PageContent.of(
        "revoke.html",
        selection=selection,
        handles=[],
        rows=[],
        devices=[selection.value] if selection.kind is SelectionKind.CLIENT_ID else [],
        prospect=await request.services.revocations.survey(selection),
        back=Redirect(ADDRESS, query=query_of(selection)).location,
        fields=list((query_of(selection) or {"all": "1"}).items()),
        job="" if selection.kind is SelectionKind.CLIENT_ID else draw_id(),
        typed=typed,
    )


async def _revoke_tokens(request: AdminRequest, handles: list[str]) -> None:
    """Revoke each; one that is gone meanwhile needs no revoking. Raises ``NotFound`` if all are."""
    found = False
    for handle in handles:
        try:
            await request.services.revocations.revoke_selection(Selection.of_handle(handle), actor=request.actor)
            found = True
        except NotFound:
            continue
    if not found:
        raise _gone()


def _gone() -> NotFound:
    return NotFound("there is no such token: it is none of ours, or expired more than 10 minutes ago")
