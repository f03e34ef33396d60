"""``/admin/groups``: the instance's group IDs at the cloud (guide chapter 11)."""

from __future__ import annotations

from typing import Final

from app.errors import Refusal
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

ADDRESS: Final = f"{PREFIX}/groups"


class GroupsPageQuery(FormModel, frozen=True):
    """The group ID that was created or deleted on the page before."""

    group_id: str = ""


class GroupForm(FormModel, frozen=True):
    """A group ID to create."""

    group_id: str = ""


async def show_groups(request: AdminRequest, query: GroupsPageQuery, form: FormValues | None = None) -> PageContent:
    """List the group IDs; where the cloud does not answer, say so."""
    groups, problem = None, None
    try:
        groups = await request.services.cloud_admin.list_groups()
    except Refusal as refusal:
        problem = refusal
    status = problem.status if problem else 200
    typed, group_id = form or {}, query.group_id
    return PageContent.of("groups.html", status=status, groups=groups, problem=problem, form=typed, group_id=group_id)


async def create_group(request: AdminRequest, form: GroupForm) -> Redirect:
    """Create a group ID."""
    group_id = form.group_id.strip()
    await request.services.cloud_admin.create_group(group_id, actor=request.actor)
    return Redirect(ADDRESS, done="created", query={"group_id": group_id})


async def ask_to_delete_group(request: AdminRequest) -> PageContent:
    """Say what deleting a group ID will do, and to how many devices."""
    count, counted_all = await request.services.registry.count_group(request.path["group_id"])
    return PageContent.of("group_delete.html", group_id=request.path["group_id"], count=count, counted_all=counted_all)


async def delete_group(request: AdminRequest) -> Redirect:
    """Delete a group ID."""
    group_id = request.path["group_id"]
    await request.services.cloud_admin.delete_group(group_id, actor=request.actor)
    return Redirect(ADDRESS, done="deleted", query={"group_id": group_id})
