"""MQTT topics and topic filters (MQTT 3.1.1 section 4.7), and how two filters relate.

*Coverage* (every topic of one is in the other) decides what is allowed. *Overlap* (some topic is in both) decides
what a revocation selects. Both are exact: they compare the filters level by level.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Final, NewType

from app.model.text import TextError, _

TopicFilter = NewType("TopicFilter", str)

MAX_TOPIC_CHARS: Final = 64
"""This cloud's limit for a whole topic, all levels together."""

# ASCII without space, and without the characters that would end a scope token (RFC 6749 A.4) or a Resources list.
_CHARACTERS: Final = re.compile(r"[!#-+\--\[\]-~]+")
_PARENT: Final = re.compile(r"[A-Za-z0-9_-]+|[+#]")


# There is no empty topic (section 4.7.3), so these pairs of filters match the same topics.
_WHOLE: Final = {"#": "+/#", "/#": "/+/#"}


class MalformedTopic(TextError):
    """A text is not a valid topic filter."""


def quoted(text: str) -> str:
    """Quote a caller's ``text`` for an ``error_description``, whose characters RFC 6749 section 5.2 limits.

    A long text is cut. Every other character becomes ``?``: a line break could forge a log entry.
    """
    cut = text if len(text) <= MAX_TOPIC_CHARS + 8 else f"{text[:MAX_TOPIC_CHARS]}..."
    return "'" + re.sub(r"[^ !#-\[\]-~]", "?", cut) + "'"


def parse_filter(text: str) -> TopicFilter:
    """Check ``text`` as a topic filter that a grant may name.

    Raises ``MalformedTopic``: empty, longer than this cloud's topics, a character outside the scope's alphabet, a
    wildcard beside other characters in its level, ``#`` not at the end, a ``$`` topic, or a parent topic (the first
    level) with other characters than the cloud's ``A-Za-z0-9_-``.
    """
    if not text:
        raise MalformedTopic(_("the topic filter is empty"))
    if len(text) > MAX_TOPIC_CHARS:
        raise MalformedTopic(
            _(
                "%(topic)s has %(count)s characters: a topic of this cloud has at most %(most)s",
                topic=quoted(text),
                count=len(text),
                most=MAX_TOPIC_CHARS,
            )
        )
    if not _CHARACTERS.fullmatch(text):
        raise MalformedTopic(
            _(
                "%(topic)s contains a character that is not allowed: use printable ASCII without space, comma, double "
                "quote and backslash",
                topic=quoted(text),
            )
        )
    if text.startswith("$"):
        # $SYS carries token uploads and notices: a grant for it would let a device read or forge them.
        raise MalformedTopic(_("%(topic)s begins with $: such topics belong to the broker", topic=quoted(text)))
    _check_levels(text)
    return TopicFilter(text)


def _check_levels(text: str) -> None:
    """Raise ``MalformedTopic`` for a wildcard in the wrong place, or a first level that the cloud does not accept."""
    levels = text.split("/")
    for position, level in enumerate(levels):
        if ("+" in level or "#" in level) and len(level) > 1:
            raise MalformedTopic(
                _("%(topic)s has a wildcard beside other characters: give it a level of its own", topic=quoted(text))
            )
        if level == "#" and position < len(levels) - 1:
            raise MalformedTopic(_("%(topic)s has # before its last level: put it last", topic=quoted(text)))
    if not _PARENT.fullmatch(levels[0]):
        raise MalformedTopic(
            _(
                "%(topic)s has an invalid parent topic (its first level): use A-Z a-z 0-9 _ - or a wildcard alone",
                topic=quoted(text),
            )
        )


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether ``topic`` is in ``topic_filter`` (section 4.7; a leading wildcard does not reach ``$`` topics)."""
    return covers(topic_filter, topic)


def covers(wide: str, narrow: str) -> bool:
    """Return whether every topic of ``narrow`` is in ``wide``. A topic is the filter of itself alone."""
    return _covers(_WHOLE.get(wide, wide), _WHOLE.get(narrow, narrow), hash_reaches_parent=True)


def covers_below(wide: str, narrow: str) -> bool:
    """Like ``covers``, but ``a/#`` does not reach ``a``.

    Section 4.7.1.2 says it does, but whether this cloud agrees is not documented. So a grant keeps ``a`` beside
    ``a/#``.
    """
    return _covers(wide, narrow, hash_reaches_parent=False)


def _covers(wide: str, narrow: str, *, hash_reaches_parent: bool) -> bool:
    if _is_hidden_from(narrow, wide):
        return False
    narrow_levels = narrow.split("/")
    wide_levels = wide.split("/")
    for position, level in enumerate(wide_levels):
        if level == "#":
            return len(narrow_levels) > position or hash_reaches_parent
        if position == len(narrow_levels) or narrow_levels[position] == "#":
            return False
        if level not in ("+", narrow_levels[position]):
            return False
    return len(wide_levels) == len(narrow_levels)


def _is_hidden_from(one: str, other: str) -> bool:
    """Return whether ``one`` begins with ``$``, which a leading wildcard of ``other`` does not match (4.7.2)."""
    return one.startswith("$") and other.startswith(("+", "#"))


def overlaps(one: str, other: str) -> bool:
    """Return whether some topic is in both filters.

    The first level is compared without case, because the cloud's parent topics ignore it: a revocation must find a
    token for ``Plant/#`` when ``plant/#`` is revoked.
    """
    if _is_hidden_from(one, other) or _is_hidden_from(other, one):
        return False
    for left, right in zip_longest(_fold_parent(one), _fold_parent(other)):
        if "#" in (left, right):
            return True
        if left is None or right is None:
            return False
        if left != right and "+" not in (left, right):
            return False
    return True


def _fold_parent(topic_filter: str) -> list[str]:
    parent, *rest = _WHOLE.get(topic_filter, topic_filter).split("/")
    return [parent.lower(), *rest]
