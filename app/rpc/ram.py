"""RAM: which access key may do what with which resource (guide chapter 6).

A policy is JSON: statements that allow or deny actions on resources, both written as globs. What no statement allows is
denied, and a Deny wins over an Allow. Actions are compared without case, resources with it.

Where the documents are not clear, an Allow is read narrowly and a Deny widely, so that what passes here passes at the
cloud: ``*`` does not match a colon of ``acs:mq:REGION:ACCOUNT:RESOURCE``; ``acs:mq:*:*`` without a resource allows what
has none (QueryToken and RevokeToken) and denies everything; and a Deny ignores case, because the cloud's topics do.
Conditions and exclusions are refused: ignoring one would allow more than the policy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.model.globs import glob_matches
from app.rpc.catalog import ACTIONS, Action

VERSION: Final = "1"

_STATEMENT_FIELDS: Final = ("Effect", "Action", "Resource")
_RESOURCE_PARTS: Final = 5
_WILDCARDS: Final = frozenset("+#")
_FORM: Final = "acs:PRODUCT:REGION:ACCOUNT:RESOURCE"


class MalformedPolicy(ValueError):
    """A document is not a valid policy; the message begins with the place in it."""


@dataclass(frozen=True, slots=True)
class Need:
    """One permission that a call needs: a RAM action on a full resource name."""

    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy. Build it with ``parse_ram_policy``."""

    allows: bool
    actions: tuple[str, ...]
    """In lower case."""
    resources: tuple[tuple[str, ...], ...]
    """Each in its five parts; those of a Deny in lower case."""

    def applies_to(self, need: Need) -> bool:
        """Return whether the statement decides about ``need``."""
        if not any(glob_matches(pattern, need.action.lower()) for pattern in self.actions):
            return False
        parts = _parts(need.resource if self.allows else need.resource.lower(), if_without="")
        return any(all(map(glob_matches, pattern, parts)) for pattern in self.resources)


@dataclass(frozen=True, slots=True)
class RamPolicy:
    """The statements of one policy."""

    statements: tuple[Statement, ...]


def parse_ram_policy(document: object) -> RamPolicy:
    """Read a policy from decoded JSON. Raises ``MalformedPolicy``."""
    table = _table(document, "", ("Version", "Statement"))
    if table["Version"] != VERSION:
        raise MalformedPolicy(f'Version: {table["Version"]!r} is not a version of RAM policies: write "{VERSION}"')
    statements = table["Statement"]
    if not isinstance(statements, list) or not statements:
        raise MalformedPolicy("Statement: not a list of statements: write at least one")
    return RamPolicy(tuple(_statement(each, f"Statement[{number}]") for number, each in enumerate(statements)))


def needs_of(action: Action, given: Mapping[str, str], *, region: str, account: str) -> Iterator[Need]:
    """Yield each permission that a call of ``action`` with the valid parameters ``given`` needs."""
    filters = given.get("Resources", "")
    parents = dict.fromkeys(each.split("/")[0] for each in filters.split(",")) if filters else {}
    for permission in action.permissions:
        for parent in parents if "{Topic}" in permission.resource else ("",):
            resource = permission.resource.format_map({**given, "Topic": parent})
            yield Need(permission.action, f"acs:mq:{region}:{account}{resource}")


def first_refused(policies: Iterable[RamPolicy], needs: Iterable[Need]) -> Need | None:
    """Return the first need that the policies together do not allow, or ``None`` if they allow all."""
    statements = [statement for policy in policies for statement in policy.statements]
    return next((need for need in needs if not _allowed(statements, need)), None)


def _allowed(statements: Iterable[Statement], need: Need) -> bool:
    if _WILDCARDS & set(need.resource):
        return False  # a token for # would reach every topic, also those that a Deny names
    decisive = [statement for statement in statements if statement.applies_to(need)]
    return bool(decisive) and all(statement.allows for statement in decisive)


def least_policy(actions: Iterable[str], instance_id: str, parent_topics: Iterable[str]) -> dict[str, Any]:
    """Return the policy document that allows only ``actions`` of the catalog on one instance and its topics.

    ``parent_topics`` may contain ``*``. Raises ``KeyError`` for an action that the catalog does not have.
    """
    given = {"InstanceId": instance_id, "Resources": ",".join(_widest(parent_topics)), "GroupId": "*"}
    resources: dict[str, dict[str, None]] = {}
    for name in actions:
        for need in needs_of(ACTIONS[name], given, region="*", account="*"):
            resources.setdefault(need.action, {})[need.resource] = None
    together: dict[tuple[str, ...], list[str]] = {}
    for action, on in resources.items():
        together.setdefault(tuple(on), []).append(action)
    return {
        "Version": VERSION,
        "Statement": [{"Effect": "Allow", "Action": allowed, "Resource": list(on)} for on, allowed in together.items()],
    }


def _widest(patterns: Iterable[str]) -> list[str]:
    """Drop the globs that another one covers; matched as a text, a star can only be covered by a star."""
    all_ = sorted(set(patterns))
    return [each for each in all_ if not any(other != each and glob_matches(other, each) for other in all_)]


def _statement(document: object, place: str) -> Statement:
    table = _table(document, f"{place}.", _STATEMENT_FIELDS)
    if table["Effect"] not in ("Allow", "Deny"):
        raise MalformedPolicy(f"{place}.Effect: {table['Effect']!r} is not a valid effect: write Allow or Deny")
    allows = table["Effect"] == "Allow"
    actions = []
    for where, text in _texts(table["Action"], f"{place}.Action"):
        if text != "*" and not all(text.partition(":")):
            raise MalformedPolicy(f"{where}: {text!r} is not a valid action: write PRODUCT:ACTION, as in mq:ApplyToken")
        actions.append(text.lower())
    resources = []
    for where, text in _texts(table["Resource"], f"{place}.Resource"):
        if text != "*" and (len(_parts(text, "")) != _RESOURCE_PARTS or not text.startswith("acs:")):
            raise MalformedPolicy(f"{where}: {text!r} is not a valid resource: write {_FORM}")
        resources.append(_parts(text if allows else text.lower(), if_without="" if allows else "*"))
    return Statement(allows, tuple(actions), tuple(resources))


def _parts(resource: str, if_without: str) -> tuple[str, ...]:
    """Split at the first four colons; ``if_without`` is the fifth part where there is none."""
    if resource == "*":
        return ("*",) * _RESOURCE_PARTS
    parts = resource.split(":", _RESOURCE_PARTS - 1)
    return (*parts, if_without) if len(parts) == _RESOURCE_PARTS - 1 else tuple(parts)


def _table(document: object, inside: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise MalformedPolicy(f"{inside.rstrip('.') or 'the policy'}: not an object: write one with {', '.join(keys)}")
    for key in document:
        if key not in keys:
            raise MalformedPolicy(f"{inside}{key}: not supported: use {', '.join(keys)}")
    for key in keys:
        if key not in document:
            raise MalformedPolicy(f"{inside}{key}: missing: add it")
    return document


def _texts(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a string or of a list of strings, with its place."""
    if isinstance(value, str):
        yield place, value
        return
    if not isinstance(value, list) or not value:
        raise MalformedPolicy(f"{place}: not a string or a list of strings")
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise MalformedPolicy(f"{place}[{number}]: {text!r} is not a string")
        yield f"{place}[{number}]", text
