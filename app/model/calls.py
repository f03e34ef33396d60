"""Calls to the cloud: their order, and how long one may take."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

ATTEMPT_TIMEOUT_S: Final = 3.0
"""How long a call to the cloud may take that was sent."""


class CallRank(IntEnum):
    """Who goes first where calls to the cloud must wait; lower first."""

    OPERATOR = 0
    """Operators' revocations."""
    FIRST = 1
    """A device without any live token; what a person or a service waits for."""
    RENEWAL = 2
    """A device that still has a live token; a device's own revocation."""
