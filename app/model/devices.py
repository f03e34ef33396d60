"""Devices: their client IDs ``GID_group@@@device`` (guide chapter 11.1), and the record of a registered one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from app.model.text import TextError, _
from app.model.topics import quoted

ClientId = NewType("ClientId", str)

MAX_CLIENT_ID_CHARS: Final = 64

CLIENT_ID_MARK: Final = "@@@"
"""Separates the group ID from the device ID. No handle contains it."""

GROUP_ID: Final = r"GID[_-][A-Za-z0-9_-]{3,60}"
"""A group ID (guide chapter 11.1) as a regular expression: 7 to 64 characters."""

DEVICE_ID: Final = r"[A-Za-z0-9_.@:-]+"
"""The part of a client ID after ``@@@`` as a regular expression."""

_GROUP_ID: Final = re.compile(GROUP_ID)
_DEVICE_ID: Final = re.compile(DEVICE_ID)

MIN_SECRET_BYTES: Final = 32
"""RFC 7518 3.2: a key for HS256 is at least as long as the hash."""


class MalformedClientId(TextError):
    """A text is not a valid MQTT client ID of this cloud."""


def parse_client_id(text: str) -> ClientId:
    """Check ``text`` as ``GID_group@@@device``.

    Raises ``MalformedClientId``: longer than 64 characters, no ``@@@``, a group ID or a device ID that does not match
    ``GROUP_ID`` or ``DEVICE_ID``.
    """
    if len(text) > MAX_CLIENT_ID_CHARS:
        raise MalformedClientId(
            _(
                "client ID %(client_id)s has %(count)s characters: at most %(most)s are allowed",
                client_id=quoted(text),
                count=len(text),
                most=MAX_CLIENT_ID_CHARS,
            )
        )
    group, separator, device = text.partition(CLIENT_ID_MARK)
    if not separator:
        raise MalformedClientId(
            _("%(client_id)s is not a valid client ID: write it as GID_group@@@device", client_id=quoted(text))
        )
    if not _GROUP_ID.fullmatch(group):
        raise MalformedClientId(
            _(
                "client ID %(client_id)s has an invalid group ID: before @@@ write GID_ or GID- and then characters of "
                "A-Z a-z 0-9 _ -, 7 to 64 characters in all",
                client_id=quoted(text),
            )
        )
    if not _DEVICE_ID.fullmatch(device):
        raise MalformedClientId(
            _(
                "client ID %(client_id)s has an invalid device ID: after @@@ write one or more characters of "
                "A-Z a-z 0-9 _ . @ : -",
                client_id=quoted(text),
            )
        )
    return ClientId(text)


def group_id(client_id: ClientId) -> str:
    """Return the part before the first ``@@@``."""
    return client_id.partition(CLIENT_ID_MARK)[0]


def device_id(client_id: ClientId) -> str:
    """Return the part after the first ``@@@``."""
    return client_id.partition(CLIENT_ID_MARK)[2]


class Algorithm(StrEnum):
    """How a device signs its assertions (RFC 7518 3.1, RFC 8037 3.1)."""

    HS256 = "HS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"
    RS256 = "RS256"

    @property
    def symmetric(self) -> bool:
        """Whether device and server share one secret."""
        return self is Algorithm.HS256


class Method(StrEnum):
    """How a device authenticates (RFC 6749 2.3.1, RFC 7523; names of RFC 7591 2)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105 (a name)
    CLIENT_SECRET_JWT = "client_secret_jwt"  # noqa: S105 (a name)
    PRIVATE_KEY_JWT = "private_key_jwt"


ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""The ``client_assertion_type`` of a signed assertion (RFC 7523 section 2.2)."""


def methods_of(algorithm: Algorithm) -> tuple[Method, ...]:
    """Return the methods a device with a key for ``algorithm`` may use."""
    if algorithm.symmetric:
        return (Method.CLIENT_SECRET_BASIC, Method.CLIENT_SECRET_JWT)
    return (Method.PRIVATE_KEY_JWT,)


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device, without its key.

    ``epoch`` is only ever raised; nothing issued or applied for under an older one is handed out. ``role`` is empty
    where the policy's ``match`` gives the role. Until ``grace_until_ms`` (Unix time in ms; 0: no grace period) the
    previous key is accepted too. ``created_at_ms`` is Unix time in ms.
    """

    client_id: ClientId
    algorithm: Algorithm
    methods: tuple[Method, ...]
    role: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    disabled: bool = False
    note: str = ""
    created_at_ms: int = 0
    grace_until_ms: int = 0
    epoch: str = ""
