"""Carrying out a verified call: what the catalog demands of every action, then the action's own handler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.rpc.catalog import ACTIONS, MAX_BATCH, Action
from app.sandbox import tokens
from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Fault, Value
from app.sandbox.keys import require_allowed
from app.sandbox.verify import Call

HANDLERS: Final[Handlers] = MappingProxyType({**tokens.HANDLERS})


async def run(account: Account, call: Call) -> Mapping[str, Value]:
    """Carry out a verified call and return the answer's fields. Raises ``Fault``; then nothing has changed."""
    if call.action not in HANDLERS:
        raise Fault("ApiNotSupport")
    action = ACTIONS[call.action]
    _check_parameters(action, call.parameters)
    owner = account.owners.get(call.parameters["InstanceId"])
    if owner is None:
        raise Fault(action.unknown_instance)
    if owner != call.account:
        raise Fault("InstancePermissionCheckFailed")
    require_allowed(call.key, call.action, call.parameters, region=account.region)
    return await HANDLERS[call.action](account, call)


def _check_parameters(action: Action, given: Mapping[str, str]) -> None:
    for parameter in action.parameters:
        values = parameter.values(given)
        if parameter.required and not values:
            raise Fault("Missing%s", parameter.name)
        if not all(parameter.rule.admits(value) for value in values):
            raise Fault(action.malformed, parameter.name)
        if len(values) > MAX_BATCH:
            raise Fault(action.wrong_combination)
