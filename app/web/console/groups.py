"""``/admin/groups``: the instance's group IDs at the cloud (guide chapter 11)."""

from __future__ import annotations

from typing import Final

from app.errors import Refusal
from app.web.api import RequestModel
from app.web.console.forms import Filled
from app.web.console.pages import Redirect, Visit
from app.web.console.rendering import PREFIX, PageContent

ADDRESS: Final = f"{PREFIX}/groups"


class GroupsPageQuery(RequestModel, frozen=True):
    """The group ID that was created or deleted on the page before."""

    group_id: str = ""


class GroupForm(RequestModel, frozen=True):
    """A group ID to create."""

    group_id: str = ""


async def list_groups(visit: Visit, query: GroupsPageQuery, form: Filled | None = None) -> PageContent:
    """List the group IDs; where the cloud is away, say so."""
    groups, problem = None, None
    try:
        groups = await visit.cloud_admin.list_groups()
    except Refusal as refusal:
        problem = refusal
    status = problem.status if problem else 200
    typed, group_id = form or {}, query.group_id
    return PageContent.of("groups.html", status=status, groups=groups, problem=problem, form=typed, group_id=group_id)


async def create(visit: Visit, form: GroupForm) -> Redirect:
    """Create a group ID."""
    group_id = form.group_id.strip()
    await visit.cloud_admin.create_group(group_id, actor=visit.actor)
    return Redirect(ADDRESS, done="created", query={"group_id": group_id})


async def ask_to_delete(visit: Visit) -> PageContent:
    """Say what deleting a group ID will do, and to how many devices."""
    count, counted_all = await visit.registry.count_group(visit.path["group_id"])
    return PageContent.of("group_delete.html", group_id=visit.path["group_id"], count=count, counted_all=counted_all)


async def delete(visit: Visit) -> Redirect:
    """Delete a group ID."""
    group_id = visit.path["group_id"]
    await visit.cloud_admin.delete_group(group_id, actor=visit.actor)
    return Redirect(ADDRESS, done="deleted", query={"group_id": group_id})
