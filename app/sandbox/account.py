"""The account whose instance the sandbox plays: what the actions work on, and the checks that precede each action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from app.model.secrets import CloudToken
from app.rpc.catalog import ACTIONS, MAX_BATCH, Action
from app.sandbox.access import ParentTopics
from app.sandbox.access_keys import AccessKey, require_allowed
from app.sandbox.answers import AnswerValue, CallRefused
from app.sandbox.broker import MqttBroker
from app.sandbox.state import SandboxClock, SandboxState
from app.sandbox.token_table import SandboxToken
from app.sandbox.verify import VerifiedCall


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxAccount:
    """What an action may read and change."""

    state: SandboxState
    clock: SandboxClock
    broker: MqttBroker
    instance_id: str
    """The instance that the broker serves."""
    owners: Mapping[str, str]
    """Every instance that exists, with the account that owns it."""
    access_keys: Mapping[str, AccessKey]
    region: str
    parents: ParentTopics

    def is_served(self, call: VerifiedCall) -> bool:
        """Return whether the broker serves the instance that ``call`` names."""
        return call.parameters["InstanceId"] == self.instance_id

    def find_own_token(self, call: VerifiedCall) -> SandboxToken | None:
        """Return the token that ``call`` names, if it belongs to the caller's account."""
        token = self.state.tokens.find_token(CloudToken(call.parameters["Token"]))
        if token is None:
            return None
        # A key that is no longer in the file counts as one of the instance's owner.
        key = self.access_keys.get(token.access_key_id)
        owner = key.account if key else self.owners[self.instance_id]
        return token if owner == call.account else None

    def check_call(self, call: VerifiedCall) -> None:
        """Check parameters, instance and RAM policies of ``call``, in this order. Raises ``CallRefused``."""
        action = ACTIONS[call.action]
        _check_parameters(action, call.parameters)
        owner = self.owners.get(call.parameters["InstanceId"])
        if owner is None:
            raise CallRefused(action.unknown_instance)
        if owner != call.account:
            raise CallRefused("InstancePermissionCheckFailed")
        require_allowed(call.key, call.action, call.parameters, region=self.region)


ActionHandler = Callable[[SandboxAccount, VerifiedCall], Awaitable[Mapping[str, AnswerValue]]]
"""Carries out a call that was checked, and returns the fields of its answer.

Raises ``CallRefused``, and then nothing has changed.
"""


def _check_parameters(action: Action, given: Mapping[str, str]) -> None:
    for parameter in action.parameters:
        values = parameter.values(given)
        if parameter.required and not values:
            raise CallRefused("Missing%s", parameter.name)
        if not all(parameter.rule.admits(value) for value in values):
            raise CallRefused(action.malformed, parameter.name)
        if len(values) > MAX_BATCH:
            raise CallRefused(action.wrong_combination)
