"""CreateGroupId, ListGroupId and DeleteGroupId (guide chapter 11)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.account import ActionHandler, SandboxAccount
from app.sandbox.answers import AnswerValue, CallRefused
from app.sandbox.device_tables import GroupRecord
from app.sandbox.verify import VerifiedCall


async def _create_group(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    group = GroupRecord(call.parameters["InstanceId"], call.parameters["GroupId"], account.clock.now_ms())
    groups = account.state.groups
    if groups.find_group(group.instance_id, group.group_id):
        raise CallRefused("GroupIdAlreadyExsited")
    others = (instance_id for instance_id, owner in account.owners.items() if owner != call.account)
    if any(groups.find_group(instance_id, group.group_id) for instance_id in others):
        raise CallRefused("GroupIdAlreadyUsedByOtherUsers")
    try:
        await groups.create_group(group)
    except sqlite3.Error:
        raise CallRefused("CreateGroupIdError") from None
    return {}


async def _list_groups(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """List the groups of an instance, the newest first. Its naming is independent if there is no other instance."""
    return {
        "Data": [
            {
                "InstanceId": group.instance_id,
                "CreateTime": group.created_at_ms,
                "UpdateTime": group.created_at_ms,
                "IndependentNaming": len(account.owners) == 1,
                "GroupId": group.group_id,
            }
            for group in account.state.groups.list_groups(call.parameters["InstanceId"])
        ]
    }


async def _delete_group(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Delete a group with the credentials of its devices, and disconnect its clients.

    What the cloud does with credentials and clients is not documented. The error table has no code for a group that
    does not exist: the answer is that for a group of another account.
    """
    group = account.state.groups.find_group(call.parameters["InstanceId"], call.parameters["GroupId"])
    if group is None:
        raise CallRefused("ResourcePermissionCheckFailed")
    try:
        await account.state.delete_group(group)
    except sqlite3.Error:
        raise CallRefused("DeleteGroupIdError") from None
    if account.is_served(call):
        account.broker.forget_group(group.group_id)
    return {}


HANDLERS: Final[Mapping[str, ActionHandler]] = MappingProxyType(
    {"CreateGroupId": _create_group, "ListGroupId": _list_groups, "DeleteGroupId": _delete_group}
)
