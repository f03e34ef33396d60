"""A device's record without its key: whether it is valid, what it permits, and what a change changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from app.errors import InvalidRequest
from app.model.devices import Device
from app.model.grants import Grant
from app.model.policy import Policy
from app.model.templates import NoGrant, is_value
from app.model.text import _
from app.model.topics import quoted

MAX_NOTE_CHARS: Final = 200
MAX_ATTRIBUTES: Final = 32

_ATTRIBUTE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


def check_record(device: Device, policy: Policy) -> None:
    """Check that the role is in the policy, and that attributes and note are valid. Raises ``InvalidRequest``."""
    if policy.role_for(device.client_id, device.role or None) is None:
        names = ", ".join(policy.roles)
        raise InvalidRequest(
            _("the policy has no role %(role)s: choose one of %(names)s", role=quoted(device.role), names=names)
            if device.role
            else _(
                "no role of the policy matches %(client_id)s: choose one of %(names)s",
                client_id=device.client_id,
                names=names,
            )
        )
    _check_attributes(device.attributes)
    if len(device.note) > MAX_NOTE_CHARS or not device.note.isprintable():
        raise InvalidRequest(
            _("not a valid note: expected one line of at most %(most)s characters", most=MAX_NOTE_CHARS)
        )


def permitted(device: Device, policy: Policy) -> Grant:
    """Return all that the policy permits the device; it may be nothing."""
    role = policy.role_for(device.client_id, device.role or None)
    try:
        return role.grant_for(device.client_id, device.attributes) if role else Grant()
    except NoGrant:
        return Grant()


def narrows(old: Device, new: Device, policy: Policy) -> bool:
    """Return whether a token issued under the old record may carry a permission that the new one does not give.

    Tokens of a device that the old record permits nothing were issued under another policy: they may carry anything.
    """
    if (new.role, new.attributes) == (old.role, old.attributes):
        return False
    before = permitted(old, policy)
    return not before or not permitted(new, policy).covers(before)


def differences(old: Device, new: Device) -> Iterator[str]:
    """Yield what was changed, in the words of the audit."""
    if new.role != old.role:
        yield f"role {new.role}" if new.role else "role by match"
    names = sorted({name for name, _value in set(old.attributes.items()) ^ set(new.attributes.items())})
    if names:
        yield f"attributes {' '.join(names)}"
    if new.note != old.note:
        yield "note"


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidRequest(_("at most %(most)s attributes are allowed", most=MAX_ATTRIBUTES))
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidRequest(
                _("%(name)s is not a valid attribute name: expected 1 to 32 of A-Z a-z 0-9 _ -", name=quoted(name))
            )
        if not is_value(value):
            # A value becomes part of topics: + or # would widen them, and / would move them among another device's.
            raise InvalidRequest(
                _(
                    "the value of attribute %(name)s is not valid: expected characters of A-Z a-z 0-9 _ . @ : -",
                    name=name,
                )
            )
