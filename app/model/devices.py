"""Devices as the cloud names them: ``GID_group@@@device`` (guide chapter 11.1, FACTS 1)."""

from __future__ import annotations

import re
from typing import Final, NewType

from app.model.topics import shown

ClientId = NewType("ClientId", str)

MAX_CLIENT_ID_CHARS: Final = 64

_SEPARATOR: Final = "@@@"
_GROUP_ID: Final = re.compile(r"(?=.{7,64}\Z)GID[_-][A-Za-z0-9_-]+")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_.@:-]+")


class MalformedClientId(ValueError):
    """A text is no MQTT client ID of this cloud; the message says why."""


def parse_client_id(text: str) -> ClientId:
    """Check ``text`` as ``GID_group@@@device``.

    Raises ``MalformedClientId``: longer than 64 characters, no ``@@@``, a group ID that does not begin with ``GID_`` or
    ``GID-`` or has not 7 to 64 of ``A-Za-z0-9_-``, or a device part that is empty or has another character than
    ``A-Za-z0-9_.@:-``.
    """
    if len(text) > MAX_CLIENT_ID_CHARS:
        raise MalformedClientId(f"{shown(text)} has {len(text)} characters; a client ID ends at {MAX_CLIENT_ID_CHARS}")
    group, separator, device = text.partition(_SEPARATOR)
    if not separator:
        raise MalformedClientId(f"{shown(text)} is not of the form GID_group@@@device")
    if not _GROUP_ID.fullmatch(group):
        raise MalformedClientId(
            f"{shown(text)} has a group ID that is not GID_ or GID- and more, 7 to 64 of A-Z a-z 0-9 _ - in all"
        )
    if not _DEVICE_ID.fullmatch(device):
        raise MalformedClientId(f"{shown(text)} has a device part that is empty or outside A-Z a-z 0-9 _ . @ : -")
    return ClientId(text)


def group_id(client_id: ClientId) -> str:
    """Return the part before the first ``@@@``."""
    return client_id.partition(_SEPARATOR)[0]


def device_id(client_id: ClientId) -> str:
    """Return the part after the first ``@@@``."""
    return client_id.partition(_SEPARATOR)[2]
