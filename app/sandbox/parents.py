"""Parent topics, the first level of every topic: the cloud's are created in its console, here a setting lists them.

How subtopics hang below them: ``PARENT/p2p/CLIENT`` is an address, every other topic a subject to subscribe to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_P2P: Final = "p2p"
_P2P_LEVELS: Final = 3


@dataclass(frozen=True, slots=True)
class ParentTopics:
    """Which parent topics there are. Their names ignore case (FACTS 1)."""

    listed: frozenset[str] | None = None
    """In lower case; ``None`` if every parent topic counts as created."""

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Return those with ``names``, or every one if there is none. Raises ``ValueError`` for what is no name."""
        found = frozenset(names)
        for name in sorted(found):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!a} is no parent topic: those are of A-Z a-z 0-9 _ -")
        return cls(frozenset(name.lower() for name in found) or None)

    def has(self, topic_filter: str) -> bool:
        """Tell whether every topic of ``topic_filter`` has a parent that is there.

        A wildcard in the parent's place reaches ones that are not, whatever is listed.
        """
        return self.listed is None or _parent(topic_filter).lower() in self.listed

    @staticmethod
    def is_named(topic_filter: str) -> bool:
        """Tell whether ``topic_filter`` names its parent topic: no wildcard, and nothing under ``$``."""
        return _NAME.fullmatch(_parent(topic_filter)) is not None


def addressee(topic: str) -> str | None:
    """Return the client ID that a point-to-point topic names, ``None`` for another topic (FACTS 1)."""
    levels = topic.split("/")
    return levels[2] if len(levels) == _P2P_LEVELS and levels[1] == _P2P else None


def _parent(topic_filter: str) -> str:
    return topic_filter.partition("/")[0]
