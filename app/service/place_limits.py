"""How many calls of one API may be under way at one instance, and how many of them without a permit yet."""

from __future__ import annotations

import math
from typing import Final

from app.store.quota import PermitGrant

LEAST_OF_ALL: Final = 8
LEAST: Final = 2
"""Calls that may be under way at all instances together, and at each: enough for a pair, however low the pace."""

LEAST_WITHOUT_PERMIT: Final = 4
PREPARE_S: Final = 0.1
"""Callers connect ahead of their permits: as many as the pace serves in this time, or in the time that connecting
takes. Then no permit has to wait for a connection."""

DECAY: Final = 0.95
"""How fast a long time to connect is forgotten, from one caller to the next."""


class PlaceLimits:
    """The limits of places, by the pace of the API and the number of instances."""

    def __init__(self, attempt_timeout_s: float) -> None:
        """``attempt_timeout_s`` is how long a call that was sent may take, in seconds."""
        self._attempt_timeout_s = attempt_timeout_s
        self._connect_s = 0.0
        self.places = LEAST_OF_ALL
        """Places in all. So many that a cloud that is slow, but within the time-out, does not lower the pace."""
        self.without_permit = LEAST_WITHOUT_PERMIT
        """Those of callers that connect, or wait for their permits."""

    @property
    def connect_s(self) -> float:
        """How long connecting takes, in seconds: the longest of late."""
        return self._connect_s

    def note_connected(self, took_s: float) -> None:
        """Note how long a caller took from its place to its connection."""
        self._connect_s = max(took_s, self._connect_s * DECAY)

    def adapt(self, grant: PermitGrant) -> None:
        """Adapt the limits to an answer of the shared quota."""
        of_all = max(LEAST_OF_ALL, math.ceil(grant.full_pace * self._attempt_timeout_s))
        self.places = max(LEAST, math.ceil(of_all / grant.instances))
        queues = 1 + sum(waiting > 0 for waiting in grant.queues)
        share = min(grant.pace, grant.group_pace) / queues
        self.without_permit = max(LEAST_WITHOUT_PERMIT, math.ceil(share * max(PREPARE_S, self._connect_s)))
