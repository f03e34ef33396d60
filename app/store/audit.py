"""The audit trail: who did what, to which device or token, in streams of bounded length.

What changes something writes its line in the very script that changes it (``audit`` in ``_shared.lua``), so that
nothing answered can lack its line. A stream's own IDs tell the time, by Redis's clock. No line holds a token, a secret
or an assertion: a token is named by its handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class What(StrEnum):
    """What happened. The scripts write some of these by themselves."""

    GRANTED = "granted"
    DISCARDED = "discarded"
    REFUSED = "refused"
    REVOKED = "revoked"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    LAPSED = "lapsed"
    DEVICE_ADDED = "device_added"
    DEVICE_CHANGED = "device_changed"
    DEVICE_DISABLED = "device_disabled"
    DEVICE_ENABLED = "device_enabled"
    DEVICE_ROTATED = "device_rotated"
    DEVICE_REVOKED = "device_revoked"
    DEVICE_REMOVED = "device_removed"
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"


SERVER = "server"
"""Who acts where nobody asked: an expiry, an overtaken application."""


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody does, as a script writes it down; ``who`` is ``cli:USER``, ``key:NAME`` or ``device:ID``."""

    who: str
    what: What
    detail: str = ""
