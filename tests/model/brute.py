"""MQTT 3.1.1 section 4.7 once more, by another way: filters as regular expressions over every topic of a small world.

The world has a letter (``x``) that no filter names. So two filters that differ at all differ on a topic of this world
that has one level more than they have, and what is true of the small world is true of all topics.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import product

from hypothesis import strategies as st

LETTERS = ("a", "A", "", "$a")


@cache
def topics(levels: int) -> tuple[str, ...]:
    """Return every topic of up to ``levels`` levels; the empty text is none (section 4.7.3)."""
    worlds = (product((*LETTERS, "x"), repeat=count) for count in range(1, levels + 1))
    return tuple(topic for world in worlds for topic in map("/".join, world) if topic)


@cache
def filters(levels: int) -> tuple[str, ...]:
    """Return every topic filter of up to ``levels`` levels."""
    heads = [head for count in range(levels + 1) for head in product((*LETTERS, "+"), repeat=count)]
    texts = ["/".join(head) for head in heads]
    texts += ["/".join((*head, "#")) for head in heads if len(head) < levels]
    return tuple(text for text in texts if text)


@cache
def pattern(topic_filter: str, *, hash_reaches_parent: bool = True) -> re.Pattern[str]:
    """Write a topic filter as a regular expression."""
    text = r"(?!\$)" if topic_filter[0] in "+#" else ""  # 4.7.2: a leading wildcard does not match $ topics
    for position, level in enumerate(topic_filter.split("/")):
        slash = "/" if position else ""
        if level == "#":  # 4.7.1.2: it stands for the parent and any number of child levels
            text += ".+" if not position else "(/.*)?" if hash_reaches_parent else "/.*"
        else:  # 4.7.1.3: + stands for one level, also an empty one
            text += slash + ("[^/]*" if level == "+" else re.escape(level))
    return re.compile(text)


@lru_cache(maxsize=4096)
def matched(topic_filter: str, levels: int, *, hash_reaches_parent: bool = True) -> frozenset[str]:
    """Return the topics of up to ``levels`` levels that lie in ``topic_filter``."""
    fits = pattern(topic_filter, hash_reaches_parent=hash_reaches_parent).fullmatch
    return frozenset(topic for topic in topics(levels) if fits(topic))


def some_filters(levels: int = 4, letters: tuple[str, ...] = LETTERS) -> st.SearchStrategy[str]:
    """Draw topic filters of up to ``levels`` levels."""
    head = st.lists(st.sampled_from((*letters, "+")), max_size=levels - 1)
    last = st.sampled_from((*letters, "+", "#"))
    return st.tuples(head, last).map(lambda parts: "/".join((*parts[0], parts[1]))).filter(bool)


@st.composite
def alike(draw: st.DrawFn, levels: int = 4) -> tuple[str, str]:
    """Draw two filters that differ in few levels: most pairs of random ones have nothing to do with each other."""
    one = draw(some_filters(levels))
    kept = [level for level in one.split("/") if level != "#"]
    changes = st.sampled_from((str, str, str.swapcase, lambda _: "+", lambda _: "", lambda level: f"${level}"))
    other = [change(level) for level, change in zip(kept, draw(st.tuples(*[changes] * len(kept))), strict=True)]
    other = [level if level in (*LETTERS, "+") else "$a" for level in other[: draw(st.integers(0, levels))]]
    if not any(other) or (len(other) < levels and draw(st.booleans())):
        other = [*other[: levels - 1], "#"]
    return (one, "/".join(other)) if draw(st.booleans()) else ("/".join(other), one)
