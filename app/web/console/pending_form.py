"""A form whose session had ended when it was sent: it is sealed into the sign-in page, and comes back after that.

Nothing of it is stored in the server. It is sealed because the page that holds it is shown to the next to sign in,
and a form may hold a token. An attacker can have a form sealed too: so the operator who signs in is shown what
it says, all but secrets, and decides whether to send it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from multidict import MultiDict, MultiMapping

from app.errors import InvalidRequest
from app.model.secrets import Secret
from app.model.text import _
from app.store.sealing import CannotOpen, SealingKeys

FIELD: Final = "pending_form"
GOOD_FOR_MS: Final = 30 * 60 * 1000
MAX_CHARS: Final = 40_000
"""A longer sealed text would not fit into a form any more."""


class PendingForm(msgspec.Struct, frozen=True):
    """A form, and which page it was for (``path``); when it was sent, in Unix ms; its fields that a page may show."""

    path: str
    fields: list[tuple[str, str]]
    sent_at_ms: int
    plain: list[str] = []


def seal_form(keys: SealingKeys, pending: PendingForm) -> str:
    """Seal a form; an empty text if it is too large for that."""
    text = keys.seal(Secret(msgspec.json.encode(pending).decode()), "pending-form", "")
    return text if len(text) <= MAX_CHARS else ""


def unseal_form(keys: SealingKeys, text: str, now_ms: int) -> PendingForm:
    """Open a form. Raises ``InvalidRequest`` for what was not sealed here, or too long ago."""
    try:
        opened = keys.open(text, "pending-form", "")
    except CannotOpen as error:
        raise InvalidRequest(
            _("what you entered before signing in cannot be read: enter it again"), cause=str(error)
        ) from None
    pending = msgspec.json.decode(opened.reveal(), type=PendingForm)
    if now_ms > pending.sent_at_ms + GOOD_FOR_MS:
        raise InvalidRequest(_("what you entered before signing in is older than 30 minutes: enter it again"))
    return pending


def restore_form(keys: SealingKeys, path: str, fields: MultiMapping[str], now_ms: int) -> MultiDict[str]:
    """Return the fields of the pending form that a form holds in ``FIELD``. Raises ``InvalidRequest``."""
    pending = unseal_form(keys, fields[FIELD], now_ms)
    if pending.path != path or len(fields) > 1:
        # One page's form must not be sent as another's.
        raise InvalidRequest(_("this form belongs to another page: open the page again and fill in its form"))
    return MultiDict(pending.fields)
