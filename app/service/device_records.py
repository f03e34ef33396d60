"""What stands in a device's record beside its key: whether it can, what it permits, and what of it was changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from app.errors import InvalidRequest
from app.model.devices import Device
from app.model.grants import Grant
from app.model.policy import Policy
from app.model.templates import NoGrant, is_value
from app.model.topics import quoted

MAX_NOTE_CHARS: Final = 200
MAX_ATTRIBUTES: Final = 32

_ATTRIBUTE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


def check_record(device: Device, policy: Policy) -> None:
    """See that the role is in the policy, and that attributes and note can be. Raises ``InvalidRequest``."""
    if policy.role_for(device.client_id, device.role or None) is None:
        names = ", ".join(policy.roles)
        raise InvalidRequest(
            f"there is no role {quoted(device.role)} in the policy: it has {names}"
            if device.role
            else f"no role of the policy matches {device.client_id}: name one of {names}"
        )
    _check_attributes(device.attributes)
    if len(device.note) > MAX_NOTE_CHARS or not device.note.isprintable():
        raise InvalidRequest(f"the note must be one line of at most {MAX_NOTE_CHARS} characters")


def permitted(device: Device, policy: Policy) -> Grant:
    """Return all that the policy permits the device; it may be nothing."""
    role = policy.role_for(device.client_id, device.role or None)
    try:
        return role.grant_for(device.client_id, device.attributes) if role else Grant()
    except NoGrant:
        return Grant()


def narrows(old: Device, new: Device, policy: Policy) -> bool:
    """Tell whether a token that was issued by the old record may carry what the new one does not permit.

    What a device without a grant holds was issued under another policy, so nothing is known of it.
    """
    if (new.role, new.attributes) == (old.role, old.attributes):
        return False
    before = permitted(old, policy)
    return not before or not permitted(new, policy).covers(before)


def differences(old: Device, new: Device) -> Iterator[str]:
    """Yield what was changed, as the audit says it."""
    if new.role != old.role:
        yield f"role {new.role}" if new.role else "role by match"
    names = sorted({name for name, _ in set(old.attributes.items()) ^ set(new.attributes.items())})
    if names:
        yield f"attributes {' '.join(names)}"
    if new.note != old.note:
        yield "note"


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidRequest(f"a device has at most {MAX_ATTRIBUTES} attributes")
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidRequest(f"an attribute's name has 1 to 32 of A-Z a-z 0-9 _ -, not {quoted(name)}")
        if not is_value(value):
            # It is put into topics: + # or / in it would widen them, or move them into a neighbour's.
            raise InvalidRequest(f"attribute {name}: its value must be of A-Z a-z 0-9 _ . @ : - and not empty")
