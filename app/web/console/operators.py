"""``/admin/operators``: the people at the console."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.errors import NotFound
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Operator, OperatorRole
from app.model.secrets import Password
from app.service.operators import OperatorAdmin
from app.store.operators import Operators
from app.web.api import RequestModel
from app.web.console.forms import Filled
from app.web.console.pages import Redirect, Visit
from app.web.console.rendering import PREFIX, PageContent

OPERATORS: Final = web.AppKey("operators", Operators)
ADDRESS: Final = f"{PREFIX}/operators"


class NewOperatorForm(RequestModel, frozen=True):
    """A new operator; without a password one is drawn."""

    role: OperatorRole
    name: str = ""
    password: Password | None = None


class OperatorRoleForm(RequestModel, frozen=True):
    """Another role."""

    role: OperatorRole


class OperatorPasswordForm(RequestModel, frozen=True):
    """Another password; without one it is drawn."""

    password: Password | None = None


def office(visit: Visit) -> OperatorAdmin:
    """Return what an operator works with on operators."""
    return OperatorAdmin(visit.app[OPERATORS])


async def list_operators(visit: Visit, form: Filled | None = None) -> PageContent:
    """Show who may sign in, and a form for one more."""
    return PageContent.of(
        "operators.html", operators=await office(visit).list_operators(), typed=form or {}, **_limits()
    )


async def add(visit: Visit, form: NewOperatorForm) -> PageContent | Redirect:
    """Add one; a password that was drawn is shown this once."""
    made = await office(visit).add_operator(form.name, form.role, form.password, actor=visit.actor)
    if made.password is None:
        return Redirect(f"{ADDRESS}/{made.name}", done="added")
    return PageContent.of("password.html", name=made.name, password=made.password.reveal(), added=True)


async def show(visit: Visit) -> PageContent:
    """Show one, and what can be done with them."""
    return PageContent.of("operator.html", found=await _find(visit), **_limits())


async def set_role(visit: Visit, form: OperatorRoleForm) -> Redirect:
    """Give them another role."""
    name = visit.path["name"]
    await office(visit).set_role(name, form.role, actor=visit.actor)
    return Redirect(f"{ADDRESS}/{name}", done="role")


async def set_password(visit: Visit, form: OperatorPasswordForm) -> PageContent | Redirect:
    """Give them another password."""
    made = await office(visit).set_password(visit.path["name"], form.password, actor=visit.actor)
    if made.password is None:
        return Redirect(f"{ADDRESS}/{made.name}", done="password")
    return PageContent.of("password.html", name=made.name, password=made.password.reveal(), added=False)


async def end_sessions(visit: Visit) -> Redirect:
    """Log them out everywhere."""
    name = visit.path["name"]
    await office(visit).end_sessions(name, actor=visit.actor)
    return Redirect(f"{ADDRESS}/{name}", done="sessions")


async def ask_to_remove(visit: Visit) -> PageContent:
    """Say what removing them will do."""
    return PageContent.of("operator_remove.html", found=await _find(visit))


async def remove(visit: Visit) -> Redirect:
    """Remove them."""
    await office(visit).remove_operator(visit.path["name"], actor=visit.actor)
    return Redirect(ADDRESS, done="removed")


async def _find(visit: Visit) -> Operator:
    for each in await office(visit).list_operators():
        if each.name == visit.path["name"]:
            return each
    raise NotFound("there is no operator of that name")


def _limits() -> dict[str, int]:
    return {"min_chars": MIN_PASSWORD_CHARS, "max_chars": MAX_PASSWORD_CHARS}
