"""Permits between the answer that brings them and the call that uses them. There is no I/O here.

Every ``now`` is loop time in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from app.cloud.quota import CallPermit
from app.store.quota import MAX_VALID_S, VALID_S

TIMES_USUAL: Final = 4.0
"""How many times the usual time to be answered permits are valid, where that is more than ``VALID_S``."""

_RISE: Final = 0.3
_FALL: Final = 0.1

NO_PERMIT: Final = CallPermit(-math.inf, 0, is_probe=False)
"""A permit that has always been void."""


class PermitStock:
    """Permits that were granted and are not handed out."""

    def __init__(self, on_probe_unsent: Callable[[], None]) -> None:
        """``on_probe_unsent`` is called when permits to probe the cloud became void here."""
        self._on_probe_unsent = on_probe_unsent
        self._count = 0
        self._permit = NO_PERMIT

    def count(self, now: float) -> int:
        """Return how many there are, without those that are void."""
        if self._count and now >= self._permit.void_at:
            self._count = 0
            if self._permit.is_probe:
                self._on_probe_unsent()
        return self._count

    def add(self, count: int, permit: CallPermit, now: float) -> None:
        """Put ``count`` of them in. Mixed with older ones they become void with those."""
        if self.count(now):
            permit = min(self._permit, permit)
        self._permit = permit
        self._count += count

    def drop_probe(self) -> None:
        """Drop permits to probe the cloud: there is no caller left that could use them."""
        if self._count and self._permit.is_probe:
            self._count = 0
            self._on_probe_unsent()

    def take(self, count: int) -> CallPermit:
        """Take ``count`` out; there are as many."""
        self._count -= count
        return self._permit


class PermitValidity:
    """How long permits shall be valid, by how long it usually takes until they can be used.

    Where Redis or this process is slow, a short validity would let every permit come too late.
    """

    def __init__(self) -> None:
        self._usual_s = 0.0

    @property
    def valid_s(self) -> float:
        """How long after it was asked for a permit may be used, in seconds."""
        return min(MAX_VALID_S, max(VALID_S, TIMES_USUAL * self._usual_s))

    def note(self, took_s: float) -> None:
        """Note how long it took from a question until its permits could be used."""
        self._usual_s += (took_s - self._usual_s) * (_RISE if took_s > self._usual_s else _FALL)
