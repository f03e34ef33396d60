"""A form whose session had ended when it was sent: sealed, it goes with the sign-in page and comes back after it.

Nothing of it is kept here. It is sealed because the page that carries it is shown to whoever signs in next, and a form
may hold a token in hand. Anybody can have a form sealed: so whoever signs in is shown what it says, all but secrets,
and sends it with a click of their own, or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from multidict import MultiDict, MultiMapping

from app.errors import InvalidRequest
from app.model.secrets import Secret
from app.store.sealing import CannotOpen, KeyRing

FIELD: Final = "carried"
GOOD_FOR_MS: Final = 30 * 60 * 1000
MAX_CHARS: Final = 40_000
"""What sealed is longer would not fit into a form any more."""


class PendingForm(msgspec.Struct, frozen=True):
    """A form, and which page it was for (``path``); when it was sent, in Unix ms; its fields that a page may show."""

    path: str
    fields: list[tuple[str, str]]
    sent_at_ms: int
    plain: list[str] = []


def seal(keys: KeyRing, path: str, fields: MultiMapping[str], now_ms: int, plain: Iterable[str] = ()) -> str:
    """Seal a form, of which a page may show the ``plain`` fields; an empty text if it is too large for that."""
    carried = PendingForm(path, list(fields.items()), now_ms, sorted(plain))
    text = keys.seal(Secret(msgspec.json.encode(carried).decode()), "carried-form", "")
    return text if len(text) <= MAX_CHARS else ""


def unseal(keys: KeyRing, text: str, now_ms: int) -> PendingForm:
    """Open a form. Raises ``InvalidRequest`` for what is none of ours, or too old."""
    try:
        opened = keys.open(text, "carried-form", "")
    except CannotOpen as error:
        raise InvalidRequest("what you had entered cannot be read any more: enter it again", cause=str(error)) from None
    carried = msgspec.json.decode(opened.reveal(), type=PendingForm)
    if now_ms > carried.sent_at_ms + GOOD_FOR_MS:
        raise InvalidRequest("what you had entered is older than half an hour: enter it again")
    return carried


def fields_of(keys: KeyRing, path: str, fields: MultiDict[str], now_ms: int) -> MultiMapping[str]:
    """Return a form's fields: the carried ones, where it brings such. Raises ``InvalidRequest``."""
    if FIELD not in fields:
        return fields
    carried = unseal(keys, fields[FIELD], now_ms)
    if carried.path != path or len(fields) > 1:
        # One page's form must not be sent as another's.
        raise InvalidRequest("this form was for another page")
    return MultiDict(carried.fields)
