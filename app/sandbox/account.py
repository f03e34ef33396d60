"""What the actions work on, and what one of them looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from app.sandbox.answers import Value
from app.sandbox.broker import Broker
from app.sandbox.clock import Clock
from app.sandbox.parents import ParentTopics
from app.sandbox.state import State
from app.sandbox.verify import Call


@dataclass(frozen=True, slots=True)
class Account:
    """The account's one instance."""

    state: State
    clock: Clock
    instance_id: str
    broker: Broker
    parents: ParentTopics

    def serves(self, call: Call) -> bool:
        """Tell whether the broker serves the instance that ``call`` is about."""
        return call.parameters["InstanceId"] == self.instance_id


Handlers = Mapping[str, Callable[[Account, Call], Awaitable[Mapping[str, Value]]]]
"""Actions by name. A handler gets parameters that keep the catalog's rules; it may raise ``Fault``."""
