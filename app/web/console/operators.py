"""``/admin/operators``: the people at the console."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.errors import NotFound
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Operator, Role
from app.model.secrets import Password
from app.service.operators import OperatorOffice
from app.store.operators import Operators
from app.web.api import Asked
from app.web.console.forms import Filled
from app.web.console.pages import Moved, Visit
from app.web.console.rendering import PREFIX, Shown

OPERATORS: Final = web.AppKey("operators", Operators)
ADDRESS: Final = f"{PREFIX}/operators"


class Adding(Asked, frozen=True):
    """A new operator; without a password one is drawn."""

    role: Role
    name: str = ""
    password: Password | None = None


class NewRole(Asked, frozen=True):
    """Another role."""

    role: Role


class NewPassword(Asked, frozen=True):
    """Another password; without one it is drawn."""

    password: Password | None = None


def office(visit: Visit) -> OperatorOffice:
    """Return what an operator works with on operators."""
    return OperatorOffice(visit.app[OPERATORS], by=visit.by)


async def list_operators(visit: Visit, form: Filled | None = None) -> Shown:
    """Show who may sign in, and a form for one more."""
    return Shown.of("operators.html", operators=await office(visit).all(), typed=form or {}, **_limits())


async def add(visit: Visit, form: Adding) -> Shown | Moved:
    """Add one; a password that was drawn is shown this once."""
    made = await office(visit).add(form.name, form.role, form.password)
    if made.password is None:
        return Moved(f"{ADDRESS}/{made.name}", done="added")
    return Shown.of("password.html", name=made.name, password=made.password.reveal(), added=True)


async def show(visit: Visit) -> Shown:
    """Show one, and what can be done with them."""
    return Shown.of("operator.html", found=await _find(visit), **_limits())


async def set_role(visit: Visit, form: NewRole) -> Moved:
    """Give them another role."""
    name = visit.path["name"]
    await office(visit).set_role(name, form.role)
    return Moved(f"{ADDRESS}/{name}", done="role")


async def set_password(visit: Visit, form: NewPassword) -> Shown | Moved:
    """Give them another password."""
    made = await office(visit).set_password(visit.path["name"], form.password)
    if made.password is None:
        return Moved(f"{ADDRESS}/{made.name}", done="password")
    return Shown.of("password.html", name=made.name, password=made.password.reveal(), added=False)


async def end_sessions(visit: Visit) -> Moved:
    """Log them out everywhere."""
    name = visit.path["name"]
    await office(visit).end_sessions(name)
    return Moved(f"{ADDRESS}/{name}", done="sessions")


async def ask_to_remove(visit: Visit) -> Shown:
    """Say what removing them will do."""
    return Shown.of("operator_remove.html", found=await _find(visit))


async def remove(visit: Visit) -> Moved:
    """Remove them."""
    await office(visit).remove(visit.path["name"])
    return Moved(ADDRESS, done="removed")


async def _find(visit: Visit) -> Operator:
    for each in await office(visit).all():
        if each.name == visit.path["name"]:
            return each
    raise NotFound("there is no operator of that name")


def _limits() -> dict[str, int]:
    return {"min_chars": MIN_PASSWORD_CHARS, "max_chars": MAX_PASSWORD_CHARS}
