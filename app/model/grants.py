"""Permissions, grants and their text form, the OAuth scope; and how a grant becomes cloud tokens.

A permission is ``pub:FILTER`` or ``sub:FILTER`` (the verbs of RFC 9431); a grant is a set of them; a scope is its text
(RFC 6749 section 3.3). A ``Grant`` is always in canonical form, so two that say the same are equal and have one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from app.model import topics
from app.model.topics import MalformedTopic, TopicFilter, quoted

MAX_FILTERS: Final = 100
"""Most topic filters of a cloud token (guide chapter 10.1), and so of one verb in a grant."""

PUBLISH: Final = "pub"
SUBSCRIBE: Final = "sub"

MAX_SCOPE_CHARS: Final = 2 * MAX_FILTERS * len(f"{PUBLISH}:{'x' * topics.MAX_TOPIC_CHARS} ")
"""The length of the longest scope that can be granted."""

_PLUS_HINT: Final = (
    "an unencoded + in a form becomes a space, so send it as %2B (curl: --data-urlencode), "
    "and put exactly one space between two permissions"
)


class TokenType(StrEnum):
    """The type of a cloud token, as in an MQTT password (FACTS 1)."""

    R = "R"
    W = "W"
    RW = "RW"

    @property
    def actions(self) -> str:
        """ApplyToken's ``Actions`` for this type (guide chapter 10.1)."""
        return "R,W" if self is TokenType.RW else self.value


class MalformedScope(ValueError):
    """A text is not a valid scope; the message names the permission, what is wrong with it, and the cure."""


class TooManyFilters(ValueError):
    """More topic filters under one verb than a cloud token may carry."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a device may publish and subscribe, in canonical form.

    Each side is sorted in byte order, without duplicates and without filters that another one covers; but ``a`` is kept
    beside ``a/#``. Raises ``TooManyFilters`` for more than ``MAX_FILTERS`` on one side.
    """

    publish: tuple[TopicFilter, ...] = ()
    subscribe: tuple[TopicFilter, ...] = ()

    def __post_init__(self) -> None:
        """Bring both sides into canonical form."""
        object.__setattr__(self, "publish", _canonical(self.publish))
        object.__setattr__(self, "subscribe", _canonical(self.subscribe))
        for verb, filters in ((PUBLISH, self.publish), (SUBSCRIBE, self.subscribe)):
            if len(filters) > MAX_FILTERS:
                raise TooManyFilters(f"{len(filters)} {verb}: filters: the cloud allows {MAX_FILTERS} in a token")

    @classmethod
    def of(cls, publish: Iterable[TopicFilter] = (), subscribe: Iterable[TopicFilter] = ()) -> Self:
        """Build a grant from filters in any order. Raises ``TooManyFilters``."""
        return cls(tuple(publish), tuple(subscribe))

    @property
    def scope(self) -> str:
        """The text form: what ``parse_scope`` reads back into an equal grant."""
        return " ".join(self.permissions())

    def permissions(self) -> Iterator[str]:
        """Yield each permission as text, ``pub:`` before ``sub:``."""
        yield from (f"{PUBLISH}:{topic_filter}" for topic_filter in self.publish)
        yield from (f"{SUBSCRIBE}:{topic_filter}" for topic_filter in self.subscribe)

    def __bool__(self) -> bool:
        """Return whether anything is granted."""
        return bool(self.publish or self.subscribe)

    def covers(self, other: Grant) -> bool:
        """Return whether a permission of this grant covers each permission of ``other``, verb by verb."""
        return self.first_uncovered(other) is None

    def first_uncovered(self, other: Grant) -> str | None:
        """Return the first permission of ``other``, as text, that no permission of this grant covers."""
        sides = ((PUBLISH, self.publish, other.publish), (SUBSCRIBE, self.subscribe, other.subscribe))
        for verb, wide_filters, narrow_filters in sides:
            for narrow in narrow_filters:
                if not any(topics.covers(wide, narrow) for wide in wide_filters):
                    return f"{verb}:{narrow}"
        return None

    def split(self) -> tuple[tuple[TokenType, tuple[TopicFilter, ...]], ...]:
        """Return the cloud tokens this grant takes: type and filters of each.

        Equal sides make one RW token, otherwise each side that is not empty makes one of its own. Never one RW token
        over the union: it would let a device publish where it may only subscribe.
        """
        if self.publish == self.subscribe:
            return ((TokenType.RW, self.publish),) if self.publish else ()
        sides = ((TokenType.R, self.subscribe), (TokenType.W, self.publish))
        return tuple((token_type, filters) for token_type, filters in sides if filters)


def parse_scope(text: str) -> Grant:
    """Read the ``scope`` of a request (RFC 6749 section 3.3 and A.4). Raises ``MalformedScope``."""
    if not text.strip(" "):
        raise MalformedScope("scope is empty: leave it out to get all that the role permits, or name a permission")
    if len(text) > MAX_SCOPE_CHARS:
        raise MalformedScope(f"scope has {len(text)} characters: at most {MAX_SCOPE_CHARS} are allowed")
    permissions = text.split(" ")
    if "" in permissions:
        # `sub:a/+` sent unencoded arrives as `sub:a/ `: read leniently it would grant another topic than was asked for.
        near = next(permission for permission in permissions if permission)
        raise MalformedScope(f"scope has a stray space (near {quoted(near)}): {_PLUS_HINT}")
    sides: dict[str, set[TopicFilter]] = {PUBLISH: set(), SUBSCRIBE: set()}
    for permission in permissions:
        verb, topic_filter = _parse_permission(permission)
        sides[verb].add(topic_filter)
        if len(sides[verb]) > MAX_FILTERS:  # refused before filters are compared with one another, which is quadratic
            raise MalformedScope(
                f"scope has more than {MAX_FILTERS} {verb}: filters with {quoted(permission)}: "
                f"the cloud allows {MAX_FILTERS} in a token, so ask for fewer or use wildcards"
            )
    return Grant.of(sides[PUBLISH], sides[SUBSCRIBE])


def _parse_permission(permission: str) -> tuple[str, TopicFilter]:
    verb, colon, topic_filter = permission.partition(":")
    if verb not in (PUBLISH, SUBSCRIBE) or not colon:
        # The tail of `sub:a/+/b` sent unencoded is `/b`.
        cure = _PLUS_HINT if permission.startswith("/") else f"write {PUBLISH}:FILTER or {SUBSCRIBE}:FILTER"
        raise MalformedScope(f"{quoted(permission)} is not a valid permission: {cure}")
    if not topic_filter:
        raise MalformedScope(f"{quoted(permission)} has no topic filter: add one; {_PLUS_HINT}")
    if "," in topic_filter:
        raise MalformedScope(f"{quoted(permission)} has a comma: write a permission for each topic filter")
    try:
        return verb, topics.parse_filter(topic_filter)
    except MalformedTopic as error:
        raise MalformedScope(f"{quoted(permission)} is not a valid permission: {error}") from None


def _canonical(filters: Iterable[TopicFilter]) -> tuple[TopicFilter, ...]:
    """Sort, and drop what another filter covers, whether or not ``a/#`` reaches ``a`` at the cloud."""
    unique = sorted(set(filters))
    wide = [topic_filter for topic_filter in unique if "+" in topic_filter or "#" in topic_filter]
    return tuple(
        narrow for narrow in unique if not any(other != narrow and topics.covers_below(other, narrow) for other in wide)
    )
