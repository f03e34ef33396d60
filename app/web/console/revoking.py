"""``/admin/revoke``: what exactly would be revoked, then revoking it; ``/admin/revoked``: how far the cloud is.

Between the two nothing is kept here: what is meant travels in the address, so that a reload and another browser show
the same.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from app.errors import InvalidRequest, NotFound
from app.model.selections import EVERYTHING_WORD, Selection, SelectionKind
from app.model.text import _
from app.service.audit import AuditFilter
from app.service.revocations import NO_TOKENS_LEFT, select
from app.store.audit import EventKind
from app.store.jobs import Job, new_job_id
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.console.token_states import count_progress
from app.web.console.tokens import ADDRESS, query_of
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
            raise InvalidRequest(
                _("more than %(most)s tokens are selected: select fewer, or all that match", most=MOST_HANDLES)
            )
        if handles and (self.all or any(each is not None for each in (self.client_id, self.role, self.topic))):
            raise InvalidRequest(_("select either some tokens or all that match, not both"))
        return handles

    def selection(self) -> Selection:
        """What is meant, if it is not some tokens. Raises ``InvalidRequest``."""
        if not self.all and self.client_id is None and self.role is None and self.topic is None:
            raise InvalidRequest(_("nothing is selected: select a token, or search for the tokens you mean"))
        return select(client_id=self.client_id, role=self.role, topic=self.topic, everything=self.all)


class RevokeForm(RevokePageQuery, frozen=True):
    """The same after confirmation: ``job`` is the ID generated then, ``confirm`` the word for everything."""

    job: str = ""
    confirm: str = ""

    def confirmed_selection(self) -> Selection:
        """What is meant, if it was confirmed. Raises ``InvalidRequest``."""
        selection = self.selection()
        if selection.kind is SelectionKind.EVERYTHING and self.confirm.strip() != EVERYTHING_WORD:
            raise InvalidRequest(_("to revoke everything, type %(word)s into the field", word=EVERYTHING_WORD))
        if selection.kind is not SelectionKind.CLIENT_ID and not self.job:
            # Without it a second click would start a second job.
            raise InvalidRequest(_("this form has no job ID: open the page that asks, and send its form"))
        return selection


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
    """Ask for the word once more; any other refused form has nothing to ask for again."""
    if "all" in form:
        return await _ask_for(request, select(everything=True), typed=form.get("confirm", ""))
    return PageContent.of("refused.html")


async def revoke_selection(request: AdminRequest, form: RevokeForm) -> Redirect:
    """Revoke: tokens and a device at once, anything else as the job that was shown."""
    revocations = request.services.revocations
    if handles := form.handles:
        await revocations.revoke_tokens(handles, actor=request.actor)
        return Redirect(f"{PREFIX}/revoked?{urlencode([('handle', handle) for handle in handles])}")
    selection = form.confirmed_selection()
    result = await revocations.revoke_selection(selection, actor=request.actor, job=form.job)
    if isinstance(result, Job):
        return Redirect(f"{PREFIX}/jobs/{result.id}")
    return Redirect(f"{PREFIX}/revoked", query={"client_id": result.client_id})


async def show_revoked(request: AdminRequest, query: RevokedPageQuery) -> PageContent:
    """Show how far the cloud is with some tokens, or with the last ones revoked of a device."""
    asked = RevokePageQuery(handle=query.handle, client_id=query.client_id)
    handles = asked.handles or await _last_revoked(request, asked.selection().value)
    records = await request.services.revocations.get_tokens(handles)
    overview = await request.services.revocations.queue_overview()
    rows = [(handle, record) for handle, record in zip(handles, records, strict=True) if record or query.handle]
    progress = count_progress([record for record in records if record], request.now_ms)
    return PageContent.of(
        "revoked.html",
        client_id=query.client_id,
        rows=rows,
        pending=progress.pending,
        failed=progress.failed,
        live=progress.live,
        not_revoked=progress.not_revoked,
        est_empty_s=overview.est_empty_s,
    )


async def _last_revoked(request: AdminRequest, client_id: str) -> list[str]:
    """Return the handles of the tokens of a device that were revoked last."""
    revoked = AuditFilter(client_id=client_id, what=EventKind.REVOKED)
    page = await request.services.audit_log.search_events(revoked, limit=MOST_HANDLES)
    return list(dict.fromkeys(entry.handle for entry in page.entries))


async def _ask_for_tokens(request: AdminRequest, handles: list[str]) -> PageContent:
    records = await request.services.revocations.get_tokens(handles)
    known = [record for record in records if record]
    if not known:
        raise NotFound(NO_TOKENS_LEFT)
    preview = await request.services.revocations.preview_tokens(known)
    return PageContent.of(
        "revoke.html",
        selection=None,
        handles=handles,
        rows=list(zip(handles, records, strict=True)),
        devices=sorted({record.client_id for record in known if record.state != "revoked"}),
        preview=preview,
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
        preview=await request.services.revocations.preview_selection(selection),
        back=Redirect(ADDRESS, query=query_of(selection)).location,
        fields=list((query_of(selection) or {"all": "1"}).items()),
        job="" if selection.kind is SelectionKind.CLIENT_ID else new_job_id(),
        typed=typed,
    )
