"""Signing in and out, the language, and going on with what an ended session interrupted."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import web

from app.errors import InvalidRequest, NotFound, Refusal
from app.logs import REQUEST_ID
from app.model.secrets import Password
from app.web.api import RequestModel
from app.web.console import pending_form
from app.web.console.forms import convert, read_fields
from app.web.console.guard import (
    SIGN_IN,
    address_of,
    check_same_origin,
    find_operator,
    give_session,
    session_of,
    take_session,
)
from app.web.console.languages import COOKIE, LANGUAGES
from app.web.console.pages import KEYS, Redirect, Visit, see_other
from app.web.console.rendering import DONE, OPERATOR, PREFIX, PageContent, render
from app.web.middleware import CLOCK, add_log_fields

_YEAR_S: Final = 365 * 24 * 3600


class SignInForm(RequestModel, frozen=True):
    """Who signs in; ``to`` is the page they meant, ``carried`` a form that was sent after their session had ended."""

    name: str = ""
    password: Password = msgspec.field(default_factory=lambda: Password(""))
    to: str = ""
    carried: str = ""


class LanguageForm(RequestModel, frozen=True):
    """A language's code, and the page on which it was chosen."""

    language: str
    to: str = ""


async def ask(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /admin/sign-in``."""
    to = local(request.query.get("to", ""))
    if await find_operator(request):
        return see_other(to)
    has_no_operators = await request.app[SIGN_IN].has_no_operators()
    done = request.query.get(DONE, "")
    return render(
        request, PageContent.of("sign_in.html", to=to, carried="", has_no_operators=has_no_operators, done=done)
    )


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /admin/sign-in``: a new session each time, so that none can have been planted before."""
    check_same_origin(request)
    form = convert(await read_fields(request), SignInForm)
    to = local(form.to)
    try:
        signed_in = await request.app[SIGN_IN].sign_in(
            form.name, form.password, address_of(request), request_id=REQUEST_ID.get("")
        )
    except Refusal as refusal:
        shown = PageContent.of(
            "sign_in.html", status=refusal.status, to=to, carried=form.carried, name=form.name, problem=refusal
        )
        response = render(request, shown)
        add_log_fields(request, error=refusal.code, cause=refusal.cause)
        return response
    if (before := session_of(request)) is not None:
        await request.app[SIGN_IN].sign_out(before, request_id=REQUEST_ID.get(""))
    add_log_fields(request, who=signed_in.operator.actor_name)
    request[OPERATOR] = signed_in.operator
    response = _go_on(request, form.carried) if form.carried else see_other(to)
    give_session(request, response, signed_in)
    return response


async def sign_out(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /admin/sign-out``."""
    check_same_origin(request)
    if (session := session_of(request)) is not None:
        await request.app[SIGN_IN].sign_out(session, request_id=REQUEST_ID.get(""))
    response = see_other(Redirect(f"{PREFIX}/sign-in", done="signed-out").location)
    take_session(request, response)
    return response


async def choose_language(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /admin/language``; whoever is about to sign in may choose as well."""
    check_same_origin(request)
    form = convert(await read_fields(request), LanguageForm)
    if form.language not in LANGUAGES:
        raise InvalidRequest(f"there is no such language; there are {', '.join(LANGUAGES)}")
    response = see_other(local(form.to))
    response.set_cookie(COOKIE, form.language, path="/", max_age=_YEAR_S, httponly=True, samesite="Strict")
    return response


async def to_overview(_: web.Request) -> web.StreamResponse:
    """Answer ``GET /admin``."""
    return see_other(f"{PREFIX}/")


async def nowhere(_: Visit) -> PageContent:
    """Answer whatever has no page. Raises ``NotFound``."""
    raise NotFound("there is nothing at this address")


def local(address: str) -> str:
    """Return ``address`` if it is a page of the console, else the overview: nobody is led elsewhere from here."""
    try:
        parts = urlsplit(address if address.isprintable() and "\\" not in address else "")
    except ValueError:  # no address at all, such as half an IPv6 one
        return f"{PREFIX}/"
    steps = unquote(parts.path).split("/")
    inside = steps[:2] == PREFIX.split("/") and len(steps) > 2  # noqa: PLR2004
    # Two dots, encoded too, lead upwards (WHATWG URL 4.4), and what follows two slashes may become a host.
    straight = not {".", ".."} & set(steps) and "" not in steps[2:-1]
    return address if inside and straight and not parts.scheme and not parts.netloc else f"{PREFIX}/"


def _go_on(request: web.Request, sealed: str) -> web.Response:
    """Show what was about to be sent when the session had ended; sending it takes another click."""
    try:
        form = pending_form.unseal(request.app[KEYS], sealed, request.app[CLOCK].now_ms())
    except InvalidRequest as refusal:
        return render(request, PageContent.of("go_on.html", to=f"{PREFIX}/", carried="", problem=refusal))
    said = [(name, value if name in form.plain else None) for name, value in form.fields if value]
    return render(request, PageContent.of("go_on.html", to=form.path, carried=sealed, said=said))
