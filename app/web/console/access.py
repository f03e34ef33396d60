"""How requests to the console are admitted and answered.

A page is a function of an ``AdminRequest`` and, if it takes any, of a ``query`` or a ``form``, each a struct by whose
type a request is read. A form that is refused is shown again as it was filled in, by the row's ``on_refused``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from aiohttp import web
from multidict import MultiDict, MultiMapping

from app.errors import Internal, Refusal
from app.logs import REQUEST_ID
from app.loop_share import LoopShare
from app.model.operators import OperatorRole
from app.web.caller_limits import limited_page
from app.web.console import pending_form
from app.web.console.download import start_download
from app.web.console.guard import REFRESH_HEADER, check_role, check_same_origin, find_operator, has_session
from app.web.console.rendering import SIGNED_IN, render_page, render_refusal_page
from app.web.console.results import DONE, PREFIX, Download, PageContent, Redirect, Result, see_other
from app.web.conversion import convert_fields, values_to_show
from app.web.middleware import add_log_fields, add_refusal_to_log
from app.web.operator_share import run_within
from app.web.request_input import FORM, MAX_FIELDS, read_form, receive_body
from app.web.route import OPEN, SERVICES, Access, AdminRequest, Admitted, Answer, AnsweredEarly, Route

_MAX_ADDRESS_CHARS: Final = 2000
_NO_FIELDS: Final[MultiMapping[str]] = MultiDict()


async def _run(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer within the share of operators if the browser sends a valid session, else of visitors.

    The session is looked up before a place is taken, or strangers with invalid ones could take them all. A valid one is
    looked up again when its turn comes: it may have ended meanwhile.
    """
    services = request.app[SERVICES]
    try:
        has_valid_session = await services.visitors_share.count(partial(has_session, request))
    except Refusal as refusal:
        return await _run_within(services.visitors_share, request, partial(_refuse, refusal))
    share = services.operators_share if has_valid_session else services.visitors_share
    return await _run_within(share, request, answer)


async def _run_for_visitor(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer within the share of visitors, also an operator: these pages wait for no session to be looked up."""
    return await _run_within(request.app[SERVICES].visitors_share, request, answer)


async def _refuse(refusal: Refusal) -> web.StreamResponse:
    raise refusal


async def _run_within(share: LoopShare, request: web.Request, answer: Answer) -> web.StreamResponse:
    """Receive what was sent, then answer within ``share``.

    A refusal is answered with a whole page, unless there is too much to do already.
    """
    if request.method == "POST":
        await receive_body(request, FORM)

    async def answer_or_refuse() -> web.StreamResponse:
        try:
            return await answer()
        except Refusal as refusal:
            add_refusal_to_log(request, refusal)
            return await render_refusal_page(request, refusal)

    return await run_within(share, answer_or_refuse)


async def _admit(request: web.Request, route: Route) -> Admitted:
    """Admit an operator; one who is not signed in is asked to, and the form they sent is kept.

    The form is read first, for it must not be lost when the session has ended. Raises ``Forbidden`` for a form of
    another site and for a role that is not enough, ``InvalidRequest``, ``TooLarge`` and ``Unavailable``.
    """
    form = None
    if route.method == "POST":
        check_same_origin(request)
        form = await read_form(request, max_fields=MAX_FIELDS)
    operator = await find_operator(request)
    if operator is None:
        raise AnsweredEarly(_ask_to_sign_in(request) if form is None else await _keep_form(request, form, route))
    add_log_fields(request, who=operator.actor_name)
    check_role(operator, route.access.role)
    services = request.app[SERVICES]
    admin_request = AdminRequest(operator, request.match_info, services, REQUEST_ID.get(""))
    if form is None:
        query = MultiDict((name, value) for name, value in request.query.items() if name != DONE)
        return Admitted(request, admin_request, query=query)
    if pending_form.FIELD in form:
        form = pending_form.restore_form(services.stores.keys, request.path, form, services.clock.now_ms())
    return Admitted(request, admin_request, form=form)


async def _admit_visitor(request: web.Request, route: Route) -> Admitted:
    """Admit everyone, to the pages before signing in. Raises as ``_admit``, for a form."""
    if route.method == "POST":
        check_same_origin(request)
    if "form" not in route.types:
        return Admitted(request, request)
    return Admitted(request, request, form=await read_form(request, max_fields=MAX_FIELDS))


async def _keep_form(request: web.Request, form: MultiMapping[str], route: Route) -> web.Response:
    """Ask to sign in, and keep the form meanwhile on that page."""
    services = request.app[SERVICES]
    pending = pending_form.PendingForm(
        request.path,
        list(form.items()),
        sent_at_ms=services.clock.now_ms(),
        plain=sorted(values_to_show(form, route.model("form"))),
    )
    sealed = pending_form.seal_form(services.stores.keys, pending)
    content = PageContent.of("sign_in.html", status=401, to=f"{PREFIX}/", pending_form=sealed, ended=True)
    return await render_page(request, content)


def _ask_to_sign_in(request: web.Request) -> web.Response:
    if REFRESH_HEADER in request.headers:
        # A script asks: a redirect would put the sign-in page into the middle of the one that is there.
        return web.Response(status=401)
    to = request.path_qs if len(request.path_qs) <= _MAX_ADDRESS_CHARS else request.path
    return see_other(Redirect(f"{PREFIX}/sign-in", query={"to": to} if to != f"{PREFIX}/" else None).location)


def _limit(admitted: Admitted) -> AbstractAsyncContextManager[None]:
    """Make few pages at once, and none for long. Raises ``Unavailable``."""
    return limited_page(admitted.http, admitted.http[SIGNED_IN].actor_name)


async def _show_again(refusal: Refusal, admitted: Admitted, route: Route) -> PageContent:
    """Show a refused form again with what was typed into it; also where a part is away, so that nothing is lost."""
    if route.on_refused is None or isinstance(refusal, Internal):
        raise refusal
    add_log_fields(admitted.http, error=refusal.code, description=refusal.description, cause=refusal.cause)
    arguments: dict[str, Any] = {}
    if "query" in route.types_on_refused:
        arguments["query"] = convert_fields(_NO_FIELDS, route.types_on_refused["query"])
    if "form" in route.types_on_refused:
        arguments["form"] = values_to_show(admitted.form or _NO_FIELDS, route.model("form"))
    content: PageContent = await route.on_refused(admitted.handler_request, **arguments)
    return replace(content, status=refusal.status, context={**content.context, "problem": refusal})


async def _render(request: web.Request, result: Result) -> web.StreamResponse:
    match result:
        case Redirect():
            return see_other(result.location)
        case Download():
            return await start_download(request, result)
        case PageContent():
            return await render_page(request, result)


_CONSOLE: Final = Access(admit=_admit, render=_render, run=_run, limit=_limit, recover=_show_again)
VIEWER: Final = replace(_CONSOLE, role=OperatorRole.VIEWER)
OPERATOR: Final = replace(_CONSOLE, role=OperatorRole.OPERATOR)
ADMIN: Final = replace(_CONSOLE, role=OperatorRole.ADMIN)
"""For an operator with at least this role."""

VISITOR: Final = replace(OPEN, admit=_admit_visitor, run=_run_for_visitor)
"""For everyone with a browser: the pages before signing in."""
