"""CreateGroupId, ListGroupId and DeleteGroupId (guide chapter 11)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Fault, Value
from app.sandbox.kept_groups import Group
from app.sandbox.verify import Call


async def _create_group(account: Account, call: Call) -> Mapping[str, Value]:
    group = Group(call.parameters["InstanceId"], call.parameters["GroupId"], account.clock.now_ms())
    if account.state.groups.get(group.instance_id, group.group_id):
        raise Fault("GroupIdAlreadyExsited")
    others = (instance_id for instance_id, owner in account.owners.items() if owner != call.account)
    if any(account.state.groups.get(instance_id, group.group_id) for instance_id in others):
        raise Fault("GroupIdAlreadyUsedByOtherUsers")
    try:
        await account.state.groups.create(group)
    except sqlite3.Error:
        raise Fault("CreateGroupIdError") from None
    return {}


async def _list_groups(account: Account, call: Call) -> Mapping[str, Value]:
    """List an instance's groups, newest first. Names are its own unless other accounts' instances share them here."""
    return {
        "Data": [
            {
                "InstanceId": group.instance_id,
                "CreateTime": group.created_at_ms,
                "UpdateTime": group.created_at_ms,
                "IndependentNaming": len(account.owners) == 1,
                "GroupId": group.group_id,
            }
            for group in account.state.groups.of(call.parameters["InstanceId"])
        ]
    }


async def _delete_group(account: Account, call: Call) -> Mapping[str, Value]:
    """Delete a group with its devices' credentials; whoever of it is connected is cut.

    What the cloud does about either is not documented; this leaves nobody of the group at the broker. For a group that
    is not there its table has no code of its own: it is answered like one that is another's.
    """
    group = account.state.groups.get(call.parameters["InstanceId"], call.parameters["GroupId"])
    if group is None:
        raise Fault("ResourcePermissionCheckFailed")
    try:
        await account.state.delete_group(group)
    except sqlite3.Error:
        raise Fault("DeleteGroupIdError") from None
    if account.serves(call):
        account.broker.forget_group(group.group_id)
    return {}


HANDLERS: Final[Handlers] = MappingProxyType(
    {"CreateGroupId": _create_group, "ListGroupId": _list_groups, "DeleteGroupId": _delete_group}
)
