"""API keys in Redis: sealed records by ID. A key is looked up at each request, so removing it counts at once."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Literal

import msgspec

from app.model.actors import Actor
from app.model.api_keys import ApiKey, ApiKeyId, Right, read_api_key_id
from app.model.secrets import ApiKeyText, Secret
from app.store.redis_keys import API_KEY_NAMES, API_KEYS
from app.store.script import Script
from app.store.sealing import SealingKeys
from app.store.store import Store

_ADD: Final = Script("add_api_key")
_REMOVE: Final = Script("remove_api_key", may_oom=True)
_REDIS_KEYS: Final = {"api_keys": API_KEYS, "names": API_KEY_NAMES}

MAX_KEYS: Final = 1000
_NO_DIGEST: Final = "0" * 64


class _ApiKeyRecord(msgspec.Struct, frozen=True):
    """A key as it is sealed. ``digest`` is the SHA-256 of its text, which is random, so it cannot be guessed.

    It is sealed although it is not secret: an attacker who writes to Redis cannot add a key, or rights to a key.
    """

    name: str
    digest: str
    rights: list[Right]
    created_at_ms: int


class ApiKeys:
    """The API keys of services."""

    def __init__(self, store: Store, sealing_keys: SealingKeys) -> None:
        """Read and write through ``store``, seal with ``sealing_keys``."""
        self._redis = store.requests
        self._clock = store.clock
        self._sealing_keys = sealing_keys

    async def find_api_key(self, text: ApiKeyText) -> ApiKey | None:
        """Return the key with this text, or None: malformed, unknown, removed or wrong.

        Raises ``Unavailable``, and ``CannotOpen`` if the record cannot be unsealed.
        """
        if (key_id := read_api_key_id(text)) is None:
            return None
        sealed = await self._redis.command("HGET", API_KEYS, key_id)
        record = self._open(key_id, sealed) if sealed else None
        # In constant time: the time of an early exit would tell an attacker how many characters were right.
        right = hmac.compare_digest(_digest(text), record.digest if record else _NO_DIGEST)
        return _key(key_id, record) if record and right else None

    async def add_api_key(
        self, text: ApiKeyText, name: str, rights: frozenset[Right], *, actor: Actor
    ) -> Literal["done", "taken", "full"]:
        """Add a key; ``taken`` if its name is. May be sent again. Raises ``Unavailable``."""
        key_id = read_api_key_id(text)
        if key_id is None:
            raise ValueError("not the text of an API key")
        ordered = sorted(rights)
        record = _ApiKeyRecord(name, _digest(text), ordered, self._clock.now_ms())
        sealed = self._sealing_keys.seal(Secret(msgspec.json.encode(record).decode()), "api-key", key_id)
        detail = f"{name}: {' '.join(ordered)}"
        answer: Literal["done", "taken", "full"] = await self._redis.run_script(
            _ADD,
            _REDIS_KEYS,
            key_id=key_id,
            name=name,
            sealed=sealed,
            max_keys=MAX_KEYS,
            actor=actor.name,
            request_id=actor.request_id,
            detail=detail,
        )
        return answer

    async def remove_api_key(self, name: str, *, actor: Actor) -> bool:
        """Remove a key: the very next request with it is refused. False if there is none. Raises ``Unavailable``."""
        removed = await self._redis.run_script(
            _REMOVE, _REDIS_KEYS, name=name, actor=actor.name, request_id=actor.request_id
        )
        return bool(removed)

    async def all_api_keys(self) -> list[ApiKey]:
        """Return every key by name. Raises ``Unavailable``, and ``CannotOpen`` if a record cannot be unsealed."""
        names = await self._redis.command("HVALS", API_KEY_NAMES)
        sealed = await self._redis.command("HMGET", API_KEYS, *names) if names else []
        found = [
            _key(ApiKeyId(key_id), self._open(ApiKeyId(key_id), text))
            for key_id, text in zip(names, sealed, strict=True)
            if text
        ]
        return sorted(found, key=lambda key: key.name)

    def _open(self, key_id: ApiKeyId, sealed: str) -> _ApiKeyRecord:
        return msgspec.json.decode(self._sealing_keys.open(sealed, "api-key", key_id).reveal(), type=_ApiKeyRecord)


def _digest(text: ApiKeyText) -> str:
    return hashlib.sha256(text.reveal().encode()).hexdigest()


def _key(key_id: ApiKeyId, record: _ApiKeyRecord) -> ApiKey:
    return ApiKey(key_id, record.name, frozenset(record.rights), record.created_at_ms)
