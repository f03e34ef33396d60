"""Sentences that several services refuse with."""

from __future__ import annotations

from typing import Final

from app.model.text import _

INVALID_CURSOR: Final = _("invalid cursor: use next_cursor from the previous page")
CANNOT_DECRYPT: Final = _(
    "a record cannot be decrypted: put its key back into SEALING_KEYS, or remove the record and add it again"
)
NOT_A_HANDLE: Final = _("not a valid handle: expected two digits, - and 22 letters, digits, _ or -")
