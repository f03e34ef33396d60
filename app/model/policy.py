"""The policy: the roles, which device has which, and what each role may publish and subscribe.

``app.model.policy_file`` reads one from a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Final

from app.model.devices import ClientId
from app.model.globs import glob_matches, may_overlap
from app.model.grants import PUBLISH, SUBSCRIBE, Grant
from app.model.templates import NoGrant, Template
from app.model.text import Text, _
from app.model.topics import TopicFilter

_ROLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_role_name(text: str) -> bool:
    """Return whether ``text`` is a valid role name: it is part of Redis keys, where other characters have a meaning."""
    return _ROLE_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Role:
    """What a kind of device may do. Lifetimes are in seconds."""

    name: str
    match: tuple[str, ...]
    publish: tuple[Template, ...]
    subscribe: tuple[Template, ...]
    default_lifetime_s: int
    max_lifetime_s: int

    def grant_for(self, client_id: ClientId, attributes: Mapping[str, str]) -> Grant:
        """Fill in the templates for one device. Raises ``NoGrant``, which names the template and the reason."""
        return Grant.of(
            publish=[template.fill(client_id, attributes) for template in self.publish],
            subscribe=[template.fill(client_id, attributes) for template in self.subscribe],
        )


@dataclass(frozen=True, slots=True)
class ExplainedTemplate:
    """One template of a role and its result for one device: a topic filter, or the reason why there is none."""

    verb: str
    template: str
    result: TopicFilter | None
    reason: Text | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which role a client ID has, by which rule, and the result of each template of that role."""

    client_id: ClientId
    role: str | None
    rule: Text
    templates: tuple[ExplainedTemplate, ...] = ()

    @property
    def has_grant(self) -> bool:
        """Whether the device gets a grant: it gets none if one template has no result."""
        return self.role is not None and all(template.result for template in self.templates)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two roles that may both match a client ID; the first one in the file wins."""

    winner: str
    winner_glob: str
    loser: str
    loser_glob: str


@dataclass(frozen=True, slots=True)
class Policy:
    """All roles, in the order of the file."""

    roles: Mapping[str, Role] = field(hash=False)

    def role_for(self, client_id: ClientId, named_role: str | None) -> Role | None:
        """Return the role that the device's record names, else the first one in the file that matches.

        ``None`` if the record names a role that the policy does not have, or if none matches. A missing role does not
        fall back on a match: the operator meant another one.
        """
        return self._choose(client_id, named_role)[0]

    def explain(self, client_id: ClientId, named_role: str | None, attributes: Mapping[str, str]) -> Explanation:
        """Return what a device may do, and by which rule (``policy explain``)."""
        role, rule = self._choose(client_id, named_role)
        if role is None:
            return Explanation(client_id, None, rule)
        templates = [(PUBLISH, template) for template in role.publish]
        templates += [(SUBSCRIBE, template) for template in role.subscribe]
        explained = tuple(_explain(verb, template, client_id, attributes) for verb, template in templates)
        return Explanation(client_id, role.name, rule, explained)

    def _choose(self, client_id: ClientId, named_role: str | None) -> tuple[Role | None, Text]:
        if named_role:
            role = self.roles.get(named_role)
            if role is None:
                return None, _(
                    "the device's record names role %(role)s, which the policy does not have", role=named_role
                )
            return role, _("the device's record names role %(role)s", role=named_role)
        for role in self.roles.values():
            for glob in role.match:
                if glob_matches(glob, client_id):
                    return role, _("%(glob)s is the first match in the policy", glob=glob)
        return None, _("the device's record names no role, and no match in the policy fits its client ID")

    def overlaps(self) -> Iterator[Overlap]:
        """Yield each pair of globs of two roles that may match the same client ID (as exact as ``may_overlap``)."""
        for winner, loser in combinations(self.roles.values(), 2):
            for winner_glob, loser_glob in product(winner.match, loser.match):
                if may_overlap(winner_glob, loser_glob):
                    yield Overlap(winner.name, winner_glob, loser.name, loser_glob)

    def parent_globs(self) -> Iterator[tuple[str, str]]:
        """Yield a glob for the parent topics of each template, with the role and template it comes from."""
        for role in self.roles.values():
            for template in (*role.publish, *role.subscribe):
                yield template.parent_glob, f"roles.{role.name}: {template.text}"

    def warnings(self) -> Iterator[str]:
        """Yield what is allowed and probably a mistake, one sentence each (``policy check``)."""
        for overlap in self.overlaps():
            yield (
                f"roles.{overlap.winner}.match {overlap.winner_glob} and roles.{overlap.loser}.match "
                f"{overlap.loser_glob} can match the same client ID: {overlap.winner}, the first in the file, wins"
            )
        for role in self.roles.values():
            for template in (*role.publish, *role.subscribe):
                if template.text.startswith(("+", "#")):
                    yield (
                        f"roles.{role.name}: {template.text} begins with a wildcard: the first level of a topic must "
                        "exist at the cloud, so the cloud will probably refuse the token; name the parent topic"
                    )


def _explain(verb: str, template: Template, client_id: ClientId, attributes: Mapping[str, str]) -> ExplainedTemplate:
    try:
        return ExplainedTemplate(verb, template.text, template.fill(client_id, attributes))
    except NoGrant as error:
        return ExplainedTemplate(verb, template.text, None, error.text)
