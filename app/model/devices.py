"""Devices: their client IDs ``GID_group@@@device`` (guide chapter 11.1), and what is registered of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from app.model.topics import shown

ClientId = NewType("ClientId", str)

MAX_CLIENT_ID_CHARS: Final = 64

CLIENT_ID_MARK: Final = "@@@"
"""Between the group and the device; no handle has it."""
_GROUP_ID: Final = re.compile(r"(?=.{7,64}\Z)GID[_-][A-Za-z0-9_-]+")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_.@:-]+")

MIN_SECRET_BYTES: Final = 32
"""RFC 7518 3.2: a key for HS256 is no shorter than the hash."""


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
    group, separator, device = text.partition(CLIENT_ID_MARK)
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


def methods_of(algorithm: Algorithm) -> tuple[Method, ...]:
    """Return the methods a device with a key for ``algorithm`` may use."""
    if algorithm.symmetric:
        return (Method.CLIENT_SECRET_BASIC, Method.CLIENT_SECRET_JWT)
    return (Method.PRIVATE_KEY_JWT,)


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device, without its key.

    ``epoch`` only ever rises; nothing issued or begun under an older one is handed out. ``role`` is empty where the
    policy's ``match`` gives it. Until ``grace_until_ms`` (Unix ms; 0: not at all) the key before this one is good too.
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
