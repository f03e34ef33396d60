"""What the actions work on, and what one of them looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from app.model.secrets import CloudToken
from app.sandbox.answers import Value
from app.sandbox.broker import Broker
from app.sandbox.clock import Clock
from app.sandbox.keys import AccessKey
from app.sandbox.parents import ParentTopics
from app.sandbox.state import State, Token
from app.sandbox.verify import Call


@dataclass(frozen=True, slots=True)
class Account:
    """The instance that the sandbox plays, and whose the others are."""

    state: State
    clock: Clock
    instance_id: str
    owners: Mapping[str, str]
    """Every instance that is there, with the account that owns it; the broker serves ``instance_id`` alone."""
    access_keys: Mapping[str, AccessKey]
    region: str
    broker: Broker
    parents: ParentTopics

    def serves(self, call: Call) -> bool:
        """Tell whether the broker serves the instance that ``call`` is about."""
        return call.parameters["InstanceId"] == self.instance_id

    def find(self, call: Call) -> Token | None:
        """Return the token that ``call`` names, if it is of the caller's own account."""
        token = self.state.find(CloudToken(call.parameters["Token"]))
        if token is None:
            return None
        key = self.access_keys.get(token.access_key_id)  # one that is in the file no more was the instance's owner's
        return token if (key.account if key else self.owners[self.instance_id]) == call.account else None


Handlers = Mapping[str, Callable[[Account, Call], Awaitable[Mapping[str, Value]]]]
"""Actions by name. A handler gets parameters that keep the catalog's rules; it may raise ``Fault``."""
