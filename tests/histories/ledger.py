"""What a history has seen, and what follows from PRODUCT's promises 1 to 3: no server here, only the judgement."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.model.brute import pattern

CLIENTS: Final = {"d1": "GID_plant@@@d1", "d2": "GID_plant@@@d2"}
ROLES: Final = {"d1": "sensor", "d2": "gateway"}
TOPICS: Final = (
    "plant/d1/up/a",
    "plant/d1/up/b",
    "plant/d1/down/x",
    "plant/d2/up/a",
    "plant/d2/up/b",
    "plant/all",
    "x",
)
"""Topics that distinguish all the filters of these histories."""

ALLOWED: Final = {
    "wide": {
        "d1": ("pub:plant/d1/up/#", "sub:plant/d1/down/#", "sub:plant/all"),
        "d2": ("pub:plant/+/up/#", "sub:plant/all"),
    },
    "narrow": {"d1": ("pub:plant/d1/up/a", "sub:plant/all"), "d2": ("pub:plant/d2/up/#",)},
}
POLICIES: Final = {
    "wide": """
[roles.sensor]
match = ["GID_plant@@@d1"]
publish = ["plant/{device_id}/up/#"]
subscribe = ["plant/{device_id}/down/#", "plant/all"]
default_lifetime_s = 1000
[roles.gateway]
publish = ["plant/+/up/#"]
subscribe = ["plant/all"]
default_lifetime_s = 1000
""",
    "narrow": """
[roles.sensor]
match = ["GID_plant@@@d1"]
publish = ["plant/{device_id}/up/a"]
subscribe = ["plant/all"]
default_lifetime_s = 1000
[roles.gateway]
publish = ["plant/{device_id}/up/#"]
default_lifetime_s = 1000
""",
}


class Broken(AssertionError):
    """A promise was broken."""


@dataclass(eq=False)
class Application:
    """An application under a handle, and what became of it. ``started`` and ``dead_at`` are moments of the ledger."""

    handle: str
    client_id: str
    role: str
    scope: str
    owner: object
    started: int
    hashes: frozenset[str] = frozenset()
    expires_at_ms: int = 0
    password: str = ""
    """Empty until it was handed out."""
    dead_at: int | None = None
    """When the revoke that took it was answered."""
    possible_revokes: int = 0
    """Revokes that were not answered, or not yet, and may have taken it."""
    lost: bool = False
    """Its instance died before the cloud's answer came: no record of it is left."""


Matches = Callable[[Application], bool]


@dataclass(eq=False)
class Attempt:
    """A bulk revocation that may still take new applications, as it was not answered, or goes on shard by shard."""

    meant: Matches
    targets: list[Application]
    job: str


@dataclass(eq=False)
class DeviceState:
    """What the registry should hold of a device. ``changed_at`` is a moment of the ledger."""

    key: str
    previous: str = ""
    previous_until_ms: int = 0
    registered: bool = True
    disabled: bool = False
    changed_at: int = 0

    def admits(self, key: str, now_ms: int) -> bool:
        """Return whether this key is good."""
        in_grace = key == self.previous and now_ms < self.previous_until_ms
        return self.registered and not self.disabled and (key == self.key or in_grace)


@dataclass
class Ledger:
    """The applications and devices of a history, and what its revokes mean for them."""

    applications: dict[str, Application] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)
    """By client ID."""
    attempts: list[Attempt] = field(default_factory=list)
    halves: list[list[Application]] = field(default_factory=list)
    """What unanswered revokes meant: each took all of it, or none."""
    seen: Counter[str] = field(default_factory=Counter)
    """What the histories were about, so that none is for nothing."""
    _moments: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def moment(self) -> int:
        """Return a number above all before it."""
        return next(self._moments)

    def began(self, application: Application) -> None:
        """Enter what is applied for."""
        application.possible_revokes = sum(each.meant(application) for each in self.attempts)
        self.applications[application.handle] = application

    def meant(self, matches: Matches) -> list[Application]:
        """Return what a revoke that starts now means."""
        return [each for each in self.applications.values() if matches(each)]

    def answered(self, targets: Iterable[Application]) -> None:
        """A revoke of these was answered: from now on they are gone."""
        now = self.moment()
        for each in targets:
            if each.dead_at is None:
                each.dead_at = now
                self.seen["revoked under way" if not each.hashes else "revoked"] += 1

    def unanswered(self, targets: list[Application]) -> None:
        """A revoke of these was started and never answered: it took all, or none."""
        self.halves.append(
            [each for each in targets if each.dead_at is None and not each.possible_revokes and each.password]
        )
        for each in targets:
            each.possible_revokes += 1
        self.seen["revoke unanswered"] += 1

    def handed_out(self, handle: str, scope: str, password: str, at: int, policies: Iterable[str]) -> None:
        """Judge a token in an answer of this moment, under the policies that were in force while it was asked for."""
        application = self.applications.get(handle)
        if application is None:
            raise Broken(f"token {handle} was handed out and never applied for")
        if application.dead_at is not None and at > application.dead_at:
            raise Broken(f"promise 2: {handle} was handed out after its revoke, or its device's, was answered")
        allowed = {permission for name in policies for permission in _allowed(name, application.client_id)}
        if too_much := _reach(scope.split()) - _reach(allowed):
            raise Broken(f"promise 1: {handle} permits {sorted(too_much)} outside the policy")
        if application.scope != scope:
            raise Broken(f"promise 1: {handle} was applied for as {application.scope!r} and handed out as {scope!r}")
        application.password = password
        self.seen["handed out"] += 1

    def good(self, application: Application, now_ms: int) -> bool:
        """Return whether it must still be active: handed out, not expired, and no revoke may have taken it."""
        spared = application.dead_at is None and not application.possible_revokes
        return bool(application.password) and spared and now_ms < application.expires_at_ms


def _allowed(policy: str, client_id: str) -> tuple[str, ...]:
    name = next(name for name, each in CLIENTS.items() if each == client_id)
    return ALLOWED[policy][name]


def _reach(permissions: Iterable[str]) -> set[tuple[str, str]]:
    pairs = [permission.split(":", 1) for permission in permissions]
    return {(verb, topic) for verb, wanted in pairs for topic in TOPICS if pattern(wanted).fullmatch(topic)}


def for_topic(selection: str) -> Matches:
    """Return what a topic selection means: what reaches this topic (a topic, not a filter)."""
    verb, _, topic = selection.rpartition(":")

    def meant(application: Application) -> bool:
        reached = _reach(application.scope.split())
        return any((each, topic) in reached for each in ([verb] if verb else ["pub", "sub"]))

    return meant
