"""``/admin/operators``: the people at the console."""

from __future__ import annotations

from typing import Final

from app.errors import NotFound
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, Operator, OperatorRole
from app.model.secrets import Password
from app.model.text import _
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

ADDRESS: Final = f"{PREFIX}/operators"


class NewOperatorForm(FormModel, frozen=True):
    """A new operator; without a password one is generated."""

    role: OperatorRole
    name: str = ""
    password: Password | None = None


class OperatorRoleForm(FormModel, frozen=True):
    """Another role."""

    role: OperatorRole


class OperatorPasswordForm(FormModel, frozen=True):
    """Another password; without one it is generated."""

    password: Password | None = None


async def show_operators(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show who may sign in, and a form for one more."""
    return PageContent.of(
        "operators.html",
        operators=await request.services.operators.list_operators(),
        typed=form or {},
        **_password_limits(),
    )


async def add_operator(request: AdminRequest, form: NewOperatorForm) -> PageContent | Redirect:
    """Add an operator; a generated password is shown only once."""
    made = await request.services.operators.add_operator(form.name, form.role, form.password, actor=request.actor)
    if made.password is None:
        return Redirect(f"{ADDRESS}/{made.name}", done="added")
    return PageContent.of("password.html", name=made.name, password=made.password.reveal(), added=True)


async def show_operator(request: AdminRequest) -> PageContent:
    """Show an operator, and what can be changed."""
    return PageContent.of("operator.html", found=await _find_operator(request), **_password_limits())


async def set_operator_role(request: AdminRequest, form: OperatorRoleForm) -> Redirect:
    """Give an operator another role."""
    name = request.path["name"]
    await request.services.operators.set_role(name, form.role, actor=request.actor)
    return Redirect(f"{ADDRESS}/{name}", done="role")


async def set_operator_password(request: AdminRequest, form: OperatorPasswordForm) -> PageContent | Redirect:
    """Give an operator another password."""
    made = await request.services.operators.set_password(request.path["name"], form.password, actor=request.actor)
    if made.password is None:
        return Redirect(f"{ADDRESS}/{made.name}", done="password")
    return PageContent.of("password.html", name=made.name, password=made.password.reveal(), added=False)


async def end_operator_sessions(request: AdminRequest) -> Redirect:
    """End all sessions of an operator."""
    name = request.path["name"]
    await request.services.operators.end_sessions(name, actor=request.actor)
    return Redirect(f"{ADDRESS}/{name}", done="sessions")


async def ask_to_remove_operator(request: AdminRequest) -> PageContent:
    """Say what removing an operator will do."""
    return PageContent.of("operator_remove.html", found=await _find_operator(request))


async def remove_operator(request: AdminRequest) -> Redirect:
    """Remove an operator."""
    await request.services.operators.remove_operator(request.path["name"], actor=request.actor)
    return Redirect(ADDRESS, done="removed")


async def _find_operator(request: AdminRequest) -> Operator:
    for each in await request.services.operators.list_operators():
        if each.name == request.path["name"]:
            return each
    raise NotFound(_("there is no operator of that name"))


def _password_limits() -> dict[str, int]:
    return {"min_chars": MIN_PASSWORD_CHARS, "max_chars": MAX_PASSWORD_CHARS}
