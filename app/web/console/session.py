"""Signing in and out, the language, and continuing with a form that an ended session interrupted."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import web

from app.errors import InvalidRequest, NotFound, Refusal
from app.logs import REQUEST_ID
from app.model.secrets import Password
from app.model.text import _
from app.service.sign_in import SignedIn
from app.web.client_address import client_address
from app.web.console.guard import find_operator, give_session, session_of, take_session
from app.web.console.languages import COOKIE, LANGUAGES
from app.web.console.pending_form import unseal_form
from app.web.console.rendering import SIGNED_IN, render_page
from app.web.console.results import PREFIX, PageContent, Redirect, see_other
from app.web.conversion import FormModel
from app.web.middleware import add_log_fields
from app.web.route import SERVICES, AdminRequest

_YEAR_S: Final = 365 * 24 * 3600


class SignInForm(FormModel, frozen=True):
    """Who signs in; ``to`` is the page they meant, ``pending_form`` what they sent after their session had ended."""

    name: str = ""
    password: Password = msgspec.field(default_factory=lambda: Password(""))
    to: str = ""
    pending_form: str = ""


class LanguageForm(FormModel, frozen=True):
    """A language's code, and the page on which it was chosen."""

    language: str
    to: str = ""


async def ask_to_sign_in(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /admin/sign-in``."""
    to = console_address(request.query.get("to", ""))
    if await find_operator(request):
        return see_other(to)
    has_no_operators = await request.app[SERVICES].sign_in.has_no_operators()
    content = PageContent.of("sign_in.html", to=to, pending_form="", has_no_operators=has_no_operators)
    return await render_page(request, content)


async def sign_in(request: web.Request, form: SignInForm) -> web.StreamResponse:
    """Answer ``POST /admin/sign-in``: a new session each time, so that no attacker can have planted it before."""
    services, request_id = request.app[SERVICES], REQUEST_ID.get("")
    address = client_address(request)
    try:
        signed_in = await services.sign_in.sign_in(form.name, form.password, address, request_id=request_id)
    except Refusal as refusal:
        return await _ask_again(request, form, refusal)
    if (before := session_of(request)) is not None:
        await services.sign_in.sign_out(before, request_id=request_id)
    return await _continue_as(request, signed_in, form)


async def sign_out(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /admin/sign-out``."""
    if (session := session_of(request)) is not None:
        await request.app[SERVICES].sign_in.sign_out(session, request_id=REQUEST_ID.get(""))
    response = see_other(Redirect(f"{PREFIX}/sign-in", done="signed-out").location)
    take_session(request, response)
    return response


async def choose_language(_request: web.Request, form: LanguageForm) -> web.StreamResponse:
    """Answer ``POST /admin/language``; it can be chosen before signing in as well."""
    if form.language not in LANGUAGES:
        raise InvalidRequest(_("language must be one of %(choices)s", choices=", ".join(LANGUAGES)))
    response = see_other(console_address(form.to))
    response.set_cookie(COOKIE, form.language, path="/", max_age=_YEAR_S, httponly=True, samesite="Strict")
    return response


async def go_to_overview(_request: web.Request) -> web.StreamResponse:
    """Answer ``GET /admin``."""
    return see_other(f"{PREFIX}/")


async def show_nothing(_request: AdminRequest) -> PageContent:
    """Answer a request for an address that has no page. Raises ``NotFound``."""
    raise NotFound(_("there is nothing at this address"))


def console_address(address: str) -> str:
    """Return ``address`` if it is a page of the console, else the overview: no link leads elsewhere from here."""
    try:
        parts = urlsplit(address if address.isprintable() and "\\" not in address else "")
    except ValueError:  # not a valid address, such as half an IPv6 one
        return f"{PREFIX}/"
    steps = unquote(parts.path).split("/")
    inside = steps[:2] == PREFIX.split("/") and len(steps) > 2  # noqa: PLR2004
    # Two dots, encoded too, lead upwards (WHATWG URL 4.4), and what follows two slashes may become a host.
    straight = not {".", ".."} & set(steps) and "" not in steps[2:-1]
    return address if inside and straight and not parts.scheme and not parts.netloc else f"{PREFIX}/"


async def _ask_again(request: web.Request, form: SignInForm, refusal: Refusal) -> web.StreamResponse:
    add_log_fields(request, error=refusal.code, cause=refusal.cause)
    content = PageContent.of(
        "sign_in.html",
        status=refusal.status,
        to=console_address(form.to),
        pending_form=form.pending_form,
        name=form.name,
        problem=refusal,
    )
    return await render_page(request, content)


async def _continue_as(request: web.Request, signed_in: SignedIn, form: SignInForm) -> web.StreamResponse:
    """Give the browser its session, and continue with the pending form or the page that was meant."""
    add_log_fields(request, who=signed_in.operator.actor_name)
    request[SIGNED_IN] = signed_in.operator
    response = see_other(console_address(form.to))
    if form.pending_form:
        response = await _show_pending_form(request, form.pending_form)
    give_session(request, response, signed_in)
    return response


async def _show_pending_form(request: web.Request, sealed: str) -> web.Response:
    """Show what was about to be sent when the session had ended; sending it takes another click."""
    services = request.app[SERVICES]
    try:
        form = unseal_form(services.stores.keys, sealed, services.clock.now_ms())
    except InvalidRequest as refusal:
        content = PageContent.of("go_on.html", to=f"{PREFIX}/", pending_form="", problem=refusal)
        return await render_page(request, content)
    shown = [(name, value if name in form.plain else None) for name, value in form.fields if value]
    return await render_page(request, PageContent.of("go_on.html", to=form.path, pending_form=sealed, typed=shown))
