"""The values that services and scripts exchange about tokens. There is no I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from app.model.devices import Device
from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.store.redis_keys import GrantKey, Handle, Shard, grant_key
from app.store.sealing import Sealed

RequestStatus = Literal["live", "apply", "wait", "failed", "limited"]
RefusalReason = Literal["stale", "used", "expired"]
TokenState = Literal["applying", "live", "revoked"]
RevocationState = Literal["queued", "confirmed", "failed", "lapsed", "dropped"]


class AssertionRefused(Exception):
    """A script refused an assertion and did nothing else.

    ``reason`` is ``stale`` if the device's record is no longer the one that the assertion was verified under.
    """

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Priority(IntEnum):
    """Which revocations go to the cloud first; within one priority, those with the longest remaining life."""

    OPERATOR = 0
    BULK = 1
    DEVICE = 2


@dataclass(frozen=True, slots=True)
class CloudTokenOfType:
    """One cloud token of a token."""

    type: TokenType
    token: CloudToken


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a request asks for: which device, which permissions, for how long.

    A live token with more than ``fresh_ms`` left serves it; one with ``spare_ms`` left does if no new one can be had.
    """

    device: Device
    role: str
    scope: str
    life_s: int
    fresh_ms: int
    spare_ms: int

    @property
    def key(self) -> GrantKey:
        """What the token and its application are keyed by."""
        return grant_key(self.device.client_id, self.scope, self.life_s)

    @property
    def shard(self) -> Shard:
        """The shard of the device."""
        return Shard.of(self.device.client_id)


@dataclass(frozen=True, slots=True)
class ApplicationLease:
    """The right to apply for one grant, under a handle and the random value of the request that applies."""

    wanted: TokenRequest
    handle: Handle
    request: str


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A live token, still sealed."""

    handle: Handle
    expires_at_ms: int
    sealed: Sealed


class ApplyRefusals(NamedTuple):
    """Why a request that would have to apply is refused; empty: it may apply."""

    first: str
    """Of a device without any token that would do."""
    renewal: str
    """Of a device that has one."""


MAY_APPLY: Final = ApplyRefusals("", "")


@dataclass(frozen=True, slots=True)
class RequestResult:
    """The answer of ``request_token.lua``.

    ``wait_ms`` is how long an application, a failure's mark or a limit still lasts. ``application`` is the handle to
    apply under or to wait for; ``failure`` is the reason that was given to ``Tokens.fail`` or in ``refuse_as``.
    """

    status: RequestStatus
    now_ms: int
    wait_ms: int
    application: Handle
    token: StoredToken | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of a handle. Times are Unix ms; ``revocation`` is a ``RevocationState``, or empty."""

    handle: Handle
    client_id: str
    role: str
    scope: str
    state: TokenState
    issued_at_ms: int
    expires_at_ms: int
    sealed: Sealed | None
    revocation: str
