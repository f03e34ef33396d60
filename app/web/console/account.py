"""``/admin/account``: one's own name, role, password and sessions."""

from __future__ import annotations

import msgspec

from app.errors import InvalidRequest, SignInFailed
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from app.model.secrets import Password
from app.model.text import _
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel
from app.web.route import AdminRequest

_SIGN_IN = f"{PREFIX}/sign-in"


def _none() -> Password:
    return Password("")


class OwnPassword(FormModel, frozen=True):
    """The old password, and the new one twice."""

    old: Password = msgspec.field(default_factory=_none)
    new: Password = msgspec.field(default_factory=_none)
    again: Password = msgspec.field(default_factory=_none)


async def show_account(_request: AdminRequest) -> PageContent:
    """Show who is signed in, and a form for another password."""
    return PageContent.of("account.html", min_chars=MIN_PASSWORD_CHARS, max_chars=MAX_PASSWORD_CHARS)


async def change_own_password(request: AdminRequest, form: OwnPassword) -> Redirect:
    """Change the password; every session ends, this one too."""
    if form.new != form.again:
        raise InvalidRequest(_("the new password and its repetition differ: enter the same twice"))
    try:
        await request.services.operators.change_password(request.caller.name, form.old, form.new, actor=request.actor)
    except SignInFailed as error:
        # The operator is signed in: to them it is a field that is wrong.
        raise InvalidRequest(error.description, cause=error.cause) from None
    return Redirect(_SIGN_IN, done="password-changed")


async def end_own_sessions(request: AdminRequest) -> Redirect:
    """End all sessions of the operator, this one too."""
    await request.services.operators.end_sessions(request.caller.name, actor=request.actor)
    return Redirect(_SIGN_IN, done="logged-out")
