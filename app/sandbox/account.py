"""What the actions work on, and what one of them looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from app.sandbox.answers import Value
from app.sandbox.clock import Clock
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
    region: str
    on_revoked: Callable[[Token], None]
    """Told of each revocation, once the token is invalid: the broker cuts whoever uses it."""


Handlers = Mapping[str, Callable[[Account, Call], Awaitable[Mapping[str, Value]]]]
"""Actions by name. A handler gets parameters that keep the catalog's rules; it may raise ``Fault``."""
