"""Sentences that several services refuse with."""

from __future__ import annotations

from typing import Final

from app.model.text import _

INVALID_CURSOR: Final = _("invalid cursor: use next_cursor from the previous page")
NOT_A_HANDLE: Final = _("not a valid handle: expected two digits, - and 22 letters, digits, _ or -")
