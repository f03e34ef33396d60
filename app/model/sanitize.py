"""Making a text that a stranger may have written fit for where it is shown: one function for each medium.

HTML is the templates' business: they escape all that is filled in.
"""

from __future__ import annotations

import re
from typing import Final

from app.model.mqtt_password import without_passwords

_OUTSIDE_RFC_6749: Final = re.compile(r"[^ !#-\[\]-~]")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def sanitize_for_log(text: str) -> str:
    """Return a text for the log or the audit: in one line, without MQTT passwords (``R|…``), which get pasted anywhere.

    What is not printable becomes ``?``: it could forge an entry, or steer a terminal.
    """
    text = without_passwords(text)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def sanitize_for_error_description(text: str) -> str:
    """Return a text of the characters that ``error_description`` may have (RFC 6749 section 5.2)."""
    return _OUTSIDE_RFC_6749.sub("?", text.replace('"', "'"))


def sanitize_for_spreadsheet(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: it would run what a stranger wrote into a client ID."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
