"""Sealing what is stored in Redis (AES-256-GCM), and finding a token's record by an HMAC of the token.

The associated data of a sealed value is its purpose, client ID and handle, so an attacker with write access to Redis
cannot move a value from one record to another. Each value names its key: a new key opens everywhere before it seals
anywhere.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from dataclasses import dataclass, field
from typing import Final, Literal, NewType, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.model.secrets import CloudToken, Secret

Purpose = Literal["client-key", "previous-client-key", "cloud-tokens", "api-key", "operator", "session", "pending-form"]
Sealed = NewType("Sealed", str)
"""A sealed value as stored: ``KEY_ID.BASE64URL(nonce, ciphertext, tag)``."""

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class CannotOpen(Exception):
    """A sealed value was not sealed by a key in SEALING_KEYS, or not for this place."""


@dataclass(frozen=True, slots=True)
class _SealingKey:
    id: str
    cipher: AESGCM = field(repr=False)
    mac_key: bytes = field(repr=False)


class SealingKeys:
    """The sealing keys: the first one seals, all of them open."""

    def __init__(self, keys: tuple[_SealingKey, ...]) -> None:
        """Use ``SealingKeys.parse``."""
        self._keys = {key.id: key for key in keys}
        self._sealing = keys[0]

    @classmethod
    def parse(cls, text: Secret) -> Self:
        """Read ``ID:BASE64,…``. Raises ``ValueError`` with what is wrong, never with a key."""
        keys = tuple(_parse_key(part.strip()) for part in text.reveal().split(",") if part.strip())
        if not keys:
            raise ValueError("no key: expected ID:BASE64 of 32 random bytes")
        if len({key.id for key in keys}) < len(keys):
            raise ValueError("two keys have the same ID: give each its own")
        return cls(keys)

    def seal(self, secret: Secret, purpose: Purpose, client_id: str, handle: str = "") -> Sealed:
        """Seal ``secret`` for one place under the first key."""
        nonce = os.urandom(_NONCE_BYTES)
        place = _place(purpose, client_id, handle)
        box = nonce + self._sealing.cipher.encrypt(nonce, secret.reveal().encode(), place)
        return Sealed(f"{self._sealing.id}.{base64.urlsafe_b64encode(box).decode()}")

    def open(self, sealed: str, purpose: Purpose, client_id: str, handle: str = "") -> Secret:
        """Open what was sealed for this place. Raises ``CannotOpen``."""
        key_id, _, text = sealed.partition(".")
        key = self._keys.get(key_id)
        if key is None:
            raise CannotOpen(f"sealed by the key {key_id!r}, which is not in SEALING_KEYS")
        try:
            box = base64.b64decode(text, b"-_", validate=True)
            place = _place(purpose, client_id, handle)
            return Secret(key.cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], place).decode())
        except (InvalidTag, binascii.Error, ValueError):
            raise CannotOpen(f"not sealed as {purpose} of {client_id} {handle}".rstrip()) from None

    def mac(self, token: CloudToken) -> str:
        """Return the HMAC under which a new token's record is found."""
        return _mac(self._sealing, token)

    def macs(self, token: CloudToken) -> list[str]:
        """Return the HMACs under every key: another key may have been the first when the token was stored."""
        return [_mac(key, token) for key in self._keys.values()]


def _parse_key(text: str) -> _SealingKey:
    key_id, colon, encoded = text.partition(":")
    # Without a colon the ID may be the key itself, which no message may contain.
    if not colon or not _KEY_ID.fullmatch(key_id):
        raise ValueError("expected ID:BASE64, the ID being 1 to 32 of A-Z a-z 0-9 _ -")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(f"the key {key_id!r} is not base64") from None
    if len(key) != _KEY_BYTES:
        raise ValueError(f"the key {key_id!r} has {len(key)} bytes instead of {_KEY_BYTES}")
    mac_key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"mqtt-token-server token lookup").derive(key)
    return _SealingKey(key_id, AESGCM(key), mac_key)


def _place(purpose: Purpose, client_id: str, handle: str) -> bytes:
    return f"{purpose}\0{client_id}\0{handle}".encode()


def _mac(key: _SealingKey, token: CloudToken) -> str:
    return hmac.new(key.mac_key, token.reveal().encode(), "sha256").hexdigest()
