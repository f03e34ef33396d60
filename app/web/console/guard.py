"""Who may do what from a browser: whose form it is, whose session, and with which role.

A form of another site is recognized by what the browser says of it (Fetch Metadata, RFC 6454): a page can forge neither
``Sec-Fetch-Site`` nor ``Origin``. So no form needs a token of its own, and none can be forgotten.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from app.errors import Forbidden
from app.model.operators import Operator, OperatorRole
from app.model.secrets import SessionId
from app.model.text import _
from app.service.sign_in import SignedIn
from app.web.console.rendering import SIGNED_IN, uses_https
from app.web.console.results import PREFIX
from app.web.route import SERVICES

_COOKIE: Final = "session"
_SECURE_COOKIE: Final = "__Host-session"
"""By its name no neighboring host, and no attacker over plain http, can set it (RFC 6265bis 4.1.3)."""

REFRESH_HEADER: Final = "X-Refresh"
"""What the script sends when a page refreshes itself: that shows no operator at work, so it prolongs no session."""

_MAX_COOKIE_CHARS: Final = 128


def check_same_origin(request: web.Request) -> None:
    """Check that a form was sent by a page of this console.

    Raises ``Forbidden`` where the browser says otherwise, or says nothing: every current browser sends a header.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    own = request.app[SERVICES].settings.issuer_url
    if origin is None and site is None:
        raise Forbidden(_("this form did not say which site it came from: use a current browser"), cause="no origin")
    if site not in {None, "same-origin"} or origin not in {None, _origin(own)}:
        # Another name of this same machine counts as another site, for a name can be made to point anywhere.
        raise Forbidden(
            _(
                "this form came from another site, or by another address of this server: open %(address)s",
                address=f"{own}{PREFIX}/",
            ),
            cause=f"origin {origin!r}, Sec-Fetch-Site {site!r}",
        )


async def find_operator(request: web.Request) -> Operator | None:
    """Return who is signed in, and remember it for the page; None if no operator is. Raises ``Unavailable``."""
    session = session_of(request)
    if session is None:
        return None
    operator = await request.app[SERVICES].sign_in.find_session(session, touch=REFRESH_HEADER not in request.headers)
    if operator is not None:
        request[SIGNED_IN] = operator
    return operator


async def has_session(request: web.Request) -> bool:
    """Return whether the browser sends a valid session, which is not prolonged by this. Raises ``Unavailable``."""
    session = session_of(request)
    return session is not None and await request.app[SERVICES].sign_in.find_session(session, touch=False) is not None


def check_role(operator: Operator, needed: OperatorRole) -> None:
    """Check that the operator has at least the role ``needed``. Raises ``Forbidden``."""
    if not operator.role.covers(needed):
        raise Forbidden(
            _(
                "this takes the role %(needed)s, and %(name)s is %(role)s: ask an admin",
                needed=needed.value,
                name=operator.name,
                role=operator.role.value,
            ),
            cause=operator.actor_name,
        )


def session_of(request: web.Request) -> SessionId | None:
    """Return the session ID that the browser sent, unverified."""
    text = request.cookies.get(_cookie(request), "")
    return SessionId(text) if text and len(text) <= _MAX_COOKIE_CHARS else None


def give_session(request: web.Request, response: web.Response, signed_in: SignedIn) -> None:
    """Give the browser its session; it keeps it until it is closed."""
    response.set_cookie(
        _cookie(request),
        signed_in.session.reveal(),
        path="/",
        httponly=True,
        secure=uses_https(request.app),
        samesite="Strict",
    )


def take_session(request: web.Request, response: web.Response) -> None:
    """Make the browser forget its session."""
    response.del_cookie(_cookie(request), path="/", httponly=True, secure=uses_https(request.app), samesite="Strict")


def _cookie(request: web.Request) -> str:
    return _SECURE_COOKIE if uses_https(request.app) else _COOKIE


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
