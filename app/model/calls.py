"""The order of calls to the cloud."""

from __future__ import annotations

from enum import IntEnum


class CallRank(IntEnum):
    """Who goes first where calls to the cloud must wait; lower first."""

    OPERATOR = 0
    """Operators' revocations."""
    FIRST = 1
    """A device without any live token; what a person or a service waits for."""
    RENEWAL = 2
    """A device that still has a live token; a device's own revocation."""
