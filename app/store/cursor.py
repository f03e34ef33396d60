"""The refusal of a cursor that no page gave."""

from __future__ import annotations

from app.errors import InvalidRequest
from app.model.text import _


class InvalidCursor(InvalidRequest):
    """A cursor cannot be read, or what it names is gone."""

    def __init__(self) -> None:
        super().__init__(_("invalid cursor: use next_cursor from the previous page"))
