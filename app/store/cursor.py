"""The error that all lists of this package raise for a cursor that none of their pages gave."""

from __future__ import annotations

from app.model.text import _


class InvalidCursor(ValueError):
    """A cursor cannot be read, or what it names is gone. The message is for the caller."""

    def __init__(self) -> None:
        super().__init__(_("invalid cursor: use next_cursor from the previous page"))
