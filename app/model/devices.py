"""Devices: their client IDs, and what is registered of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

ClientId = NewType("ClientId", str)

MIN_SECRET_BYTES: Final = 32
"""RFC 7518 3.2: a key for HS256 is no shorter than the hash."""


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
    policy's ``match`` gives it.
    """

    client_id: ClientId
    algorithm: Algorithm
    methods: tuple[Method, ...]
    role: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    note: str = ""
    created_at_ms: int = 0
    epoch: str = ""
