"""RAM: which access key may do what with which resource (guide chapter 6).

A policy is JSON: statements that allow or deny actions on resources, both with ``*`` (any characters) and ``?`` (one).
What no statement allows is denied, and a deny wins. Actions are compared without case, resources with it.

Where the documents leave room an Allow is read narrowly and a Deny widely, so that what passes here passes at the
cloud: ``*`` does not reach over a colon of ``acs:mq:REGION:ACCOUNT:RESOURCE``; ``acs:mq:*:*`` without a resource
allows what has none (Query- and RevokeToken) and denies everything; and a deny does not look at case, because the
cloud's topics do not. Conditions and exclusions are refused: to skip one would allow more than was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.rpc.catalog import ACTIONS, Action

VERSION: Final = "1"

_KEYS: Final = ("Effect", "Action", "Resource")
_RESOURCE_PARTS: Final = 5
_WILDCARDS: Final = frozenset("+#")
_FORM: Final = "acs:PRODUCT:REGION:ACCOUNT:RESOURCE"


class MalformedPolicy(ValueError):
    """A document is no policy; the message begins with the place in it."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a call must be allowed: a RAM action on a whole resource name."""

    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy. Build it with ``parse_policy``."""

    allows: bool
    actions: tuple[str, ...]
    """In lower case."""
    resources: tuple[tuple[str, ...], ...]
    """Each in its five parts; those of a deny in lower case."""

    def applies_to(self, need: Need) -> bool:
        """Tell whether the statement decides about ``need``."""
        if not any(matches(pattern, need.action.lower()) for pattern in self.actions):
            return False
        parts = _parts(need.resource if self.allows else need.resource.lower(), if_without="")
        return any(all(map(matches, pattern, parts)) for pattern in self.resources)


@dataclass(frozen=True, slots=True)
class RamPolicy:
    """What one policy says."""

    statements: tuple[Statement, ...]


def matches(pattern: str, text: str) -> bool:
    """Tell whether ``pattern`` matches the whole of ``text``.

    Only the last ``*`` is ever tried again, so the steps are bounded by the product of the two lengths, whatever an
    author of policies or a caller may think up.
    """
    here = at = 0
    star, resume = -1, 0
    while at < len(text):
        character = pattern[here : here + 1]
        if character == "*":
            star, resume = here, at
            here += 1
        elif character in ("?", text[at]):
            here += 1
            at += 1
        elif star >= 0:
            resume += 1
            here, at = star + 1, resume
        else:
            return False
    return not pattern[here:].strip("*")


def parse_policy(document: object) -> RamPolicy:
    """Read a policy from decoded JSON. Raises ``MalformedPolicy``."""
    table = _table(document, "", ("Version", "Statement"))
    if table["Version"] != VERSION:
        raise MalformedPolicy(f'Version: {table["Version"]!r} is none; write "{VERSION}"')
    statements = table["Statement"]
    if not isinstance(statements, list) or not statements:
        raise MalformedPolicy("Statement: not a list with a statement in it")
    return RamPolicy(tuple(_statement(each, f"Statement[{number}]") for number, each in enumerate(statements)))


def needs_of(action: Action, given: Mapping[str, str], *, region: str, account: str) -> Iterator[Need]:
    """Yield what a call of ``action`` with the parameters ``given``, which keep its rules, must be allowed."""
    filters = given.get("Resources", "")
    parents = dict.fromkeys(each.split("/")[0] for each in filters.split(",")) if filters else {}
    for permission in action.permissions:
        for parent in parents if "{Topic}" in permission.resource else ("",):
            resource = permission.resource.format_map({**given, "Topic": parent})
            yield Need(permission.action, f"acs:mq:{region}:{account}{resource}")


def first_refused(policies: Iterable[RamPolicy], needs: Iterable[Need]) -> Need | None:
    """Return the first need that the policies together do not allow; ``None`` if they allow all."""
    statements = [statement for policy in policies for statement in policy.statements]
    return next((need for need in needs if not _allowed(statements, need)), None)


def _allowed(statements: Iterable[Statement], need: Need) -> bool:
    if _WILDCARDS & set(need.resource):
        return False  # a token for # would reach every topic, those that a deny names as well
    decisive = [statement for statement in statements if statement.applies_to(need)]
    return bool(decisive) and all(statement.allows for statement in decisive)


def least_policy(actions: Iterable[str], instance_id: str, parent_topics: Iterable[str]) -> dict[str, Any]:
    """Return the policy document that allows just ``actions`` of the catalog on one instance and its topics.

    ``parent_topics`` may have ``*``. Raises ``KeyError`` for an action that the catalog does not have.
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
    """Drop the patterns that another one reaches whole (as a text, each of their stars can only meet a star)."""
    all_ = sorted(set(patterns))
    return [each for each in all_ if not any(other != each and matches(other, each) for other in all_)]


def _statement(document: object, place: str) -> Statement:
    table = _table(document, f"{place}.", _KEYS)
    if table["Effect"] not in ("Allow", "Deny"):
        raise MalformedPolicy(f"{place}.Effect: {table['Effect']!r} is neither Allow nor Deny")
    allows = table["Effect"] == "Allow"
    actions = []
    for where, text in _texts(table["Action"], f"{place}.Action"):
        if text != "*" and not all(text.partition(":")):
            raise MalformedPolicy(f"{where}: {text!r} is not PRODUCT:ACTION, mq:ApplyToken say")
        actions.append(text.lower())
    resources = []
    for where, text in _texts(table["Resource"], f"{place}.Resource"):
        if text != "*" and (len(_parts(text, "")) != _RESOURCE_PARTS or not text.startswith("acs:")):
            raise MalformedPolicy(f"{where}: {text!r} is not {_FORM}")
        resources.append(_parts(text if allows else text.lower(), if_without="" if allows else "*"))
    return Statement(allows, tuple(actions), tuple(resources))


def _parts(resource: str, if_without: str) -> tuple[str, ...]:
    """Split at the first four colons; ``if_without`` stands for the fifth part where there is none."""
    if resource == "*":
        return ("*",) * _RESOURCE_PARTS
    parts = resource.split(":", _RESOURCE_PARTS - 1)
    return (*parts, if_without) if len(parts) == _RESOURCE_PARTS - 1 else tuple(parts)


def _table(document: object, inside: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise MalformedPolicy(f"{inside.rstrip('.') or 'the policy'}: not an object with {', '.join(keys)}")
    for key in document:
        if key not in keys:
            raise MalformedPolicy(f"{inside}{key}: not supported; there are {', '.join(keys)}")
    for key in keys:
        if key not in document:
            raise MalformedPolicy(f"{inside}{key}: missing")
    return document


def _texts(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a string or a list of strings, with its place."""
    if isinstance(value, str):
        yield place, value
        return
    if not isinstance(value, list) or not value:
        raise MalformedPolicy(f"{place}: neither a string nor a list with strings in it")
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise MalformedPolicy(f"{place}[{number}]: {text!r} is no string")
        yield f"{place}[{number}]", text
