"""``/admin/account``: one's own name, role, password and sessions."""

from __future__ import annotations

import msgspec

from app.errors import InvalidRequest, SignInFailed
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from app.model.secrets import Password
from app.web.api import RequestModel
from app.web.console.operators import office
from app.web.console.pages import Redirect, Visit
from app.web.console.rendering import PREFIX, PageContent

_SIGN_IN = f"{PREFIX}/sign-in"


def _none() -> Password:
    return Password("")


class OwnPassword(RequestModel, frozen=True):
    """The old password, and the new one twice."""

    old: Password = msgspec.field(default_factory=_none)
    new: Password = msgspec.field(default_factory=_none)
    again: Password = msgspec.field(default_factory=_none)


async def show(visit: Visit) -> PageContent:  # noqa: ARG001 (who it is, every page knows)
    """Show who is signed in, and a form for another password."""
    return PageContent.of("account.html", min_chars=MIN_PASSWORD_CHARS, max_chars=MAX_PASSWORD_CHARS)


async def change_password(visit: Visit, form: OwnPassword) -> Redirect:
    """Change the password; every session ends, this one too."""
    if form.new != form.again:
        raise InvalidRequest("the new password and its repetition are not the same")
    try:
        await office(visit).change_password(visit.operator.name, form.old, form.new, actor=visit.actor)
    except SignInFailed as error:
        # Whoever asks is signed in: to them it is a field that is wrong.
        raise InvalidRequest(error.description, cause=error.cause) from None
    return Redirect(_SIGN_IN, done="password-changed")


async def end_sessions(visit: Visit) -> Redirect:
    """Log out everywhere, here too."""
    await office(visit).end_sessions(visit.operator.name, actor=visit.actor)
    return Redirect(_SIGN_IN, done="logged-out")
