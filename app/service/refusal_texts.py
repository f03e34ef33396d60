"""Refusals that several services have in common."""

from __future__ import annotations

from typing import Final

from app.errors import Unavailable
from app.model.text import _
from app.store.constants import RECORD_KEPT_MS

NOT_A_HANDLE: Final = _("not a valid handle: expected two digits, - and 22 letters, digits, _ or -")
UNKNOWN_TOKEN: Final = _(
    "this token is unknown: it was not issued here, or expired more than %(minutes)s minutes ago",
    minutes=RECORD_KEPT_MS // 60_000,
)


def cannot_decrypt(cause: str) -> Unavailable:
    """Return the refusal for a record whose sealing key is missing; ``cause`` is for the log."""
    return Unavailable(
        _("a record cannot be decrypted: put its key back into SEALING_KEYS, or remove the record and add it again"),
        cause=cause,
        retry_after_s=60,
    )
