"""MQTT topics and topic filters (MQTT 3.1.1 section 4.7), and how two filters relate.

*Coverage* (every topic of one lies in the other) decides what is allowed. *Overlap* (some topic lies in both) decides
what a revocation selects. Both are exact: no topic is compared, only levels.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Final, NewType

Topic = NewType("Topic", str)
TopicFilter = NewType("TopicFilter", str)

MAX_TOPIC_CHARS: Final = 64
"""This cloud's limit for a whole topic, parent and sub-levels together."""

# ASCII without space, and without the characters that would end a scope token (RFC 6749 A.4) or a Resources list.
_CHARACTERS: Final = re.compile(r"[!#-+\--\[\]-~]+")
_PARENT: Final = re.compile(r"[A-Za-z0-9_-]+|[+#]")


# There is no empty topic (section 4.7.3), so what `#` and `/#` reach beside their other topics is nothing.
_WHOLE: Final = {"#": "+/#", "/#": "/+/#"}


class MalformedTopic(ValueError):
    """A text is no topic or topic filter; the message says why."""


def shown(text: str) -> str:
    """Quote ``text`` for an ``error_description``, whose characters RFC 6749 section 5.2 bounds.

    A stranger's text goes into answers and logs, so it is cut short, and what is no plain character (a line break that
    would forge a log line, say) becomes ``?``.
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
        raise MalformedTopic("the topic filter is empty")
    if len(text) > MAX_TOPIC_CHARS:
        raise MalformedTopic(f"{shown(text)} has {len(text)} characters; this cloud's topics end at {MAX_TOPIC_CHARS}")
    if not _CHARACTERS.fullmatch(text):
        raise MalformedTopic(
            f"{shown(text)} has a character other than printable ASCII without space, comma, double quote and backslash"
        )
    if text.startswith("$"):
        # $SYS carries token uploads and notices: a grant for it would let a device read or forge them.
        raise MalformedTopic(f"{shown(text)} begins with $, which belongs to the broker")
    levels = text.split("/")
    for position, level in enumerate(levels):
        if ("+" in level or "#" in level) and len(level) > 1:
            raise MalformedTopic(f"{shown(text)} has a wildcard that does not fill its level")
        if level == "#" and position < len(levels) - 1:
            raise MalformedTopic(f"{shown(text)} has # before its last level")
    if not _PARENT.fullmatch(levels[0]):
        raise MalformedTopic(f"{shown(text)} has a parent topic (first level) outside A-Z a-z 0-9 _ -")
    return TopicFilter(text)


def parse_topic(text: str) -> Topic:
    """Check ``text`` as a topic to publish to (MQTT 3.1.1 sections 3.3.2.1 and 4.7.3). Raises ``MalformedTopic``."""
    if not text or "\0" in text:
        raise MalformedTopic("a topic has at least one character, and no NUL")
    if "+" in text or "#" in text:
        raise MalformedTopic(f"{shown(text)} has a wildcard; a message goes to one topic")
    return Topic(text)


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether ``topic`` lies in ``topic_filter`` (section 4.7; a leading wildcard does not reach ``$`` topics)."""
    return covers(topic_filter, topic)


def covers(wide: str, narrow: str) -> bool:
    """Tell whether every topic of ``narrow`` lies in ``wide``. A topic is the filter of itself alone."""
    return _covers(_WHOLE.get(wide, wide), _WHOLE.get(narrow, narrow), hash_reaches_parent=True)


def covers_below(wide: str, narrow: str) -> bool:
    """Like ``covers``, but ``a/#`` does not reach ``a``.

    Section 4.7.1.2 says it does; whether this cloud agrees is not documented, so nothing is dropped on the strength
    of it.
    """
    return _covers(wide, narrow, hash_reaches_parent=False)


def _covers(wide: str, narrow: str, *, hash_reaches_parent: bool) -> bool:
    if _hides(narrow, wide):
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


def _hides(one: str, other: str) -> bool:
    """Tell whether ``one`` lies under ``$``, where the leading wildcard of ``other`` does not reach (section 4.7.2)."""
    return one.startswith("$") and other.startswith(("+", "#"))


def overlaps(one: str, other: str) -> bool:
    """Tell whether some topic lies in both filters.

    The first level is compared without case, because the cloud's parent topics ignore it: a revocation must find a
    token for ``Plant/#`` when ``plant/#`` is revoked.
    """
    if _hides(one, other) or _hides(other, one):
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
