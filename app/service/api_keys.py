"""API keys of services: made, removed, and asked for a right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.errors import InsufficientScope, InvalidRequest, InvalidToken, NotFound, Unavailable
from app.model.actors import Actor
from app.model.api_keys import ApiKey, Right, generate_api_key, is_api_key_name, read_api_key_id
from app.model.secrets import ApiKeyText
from app.store.api_keys import MAX_KEYS, ApiKeys
from app.store.sealing import CannotOpen


@dataclass(frozen=True, slots=True)
class Bearer:
    """An API key as it was sent, unverified."""

    text: ApiKeyText


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A new key; its text is shown this once."""

    name: str
    rights: frozenset[Right]
    text: ApiKeyText


class KeyCheck:
    """Verifies API keys."""

    def __init__(self, keys: ApiKeys) -> None:
        """Look them up in ``keys``, at each request: a removed one counts at once."""
        self._keys = keys

    async def verify(self, bearer: Bearer, right: Right) -> ApiKey:
        """Return the key if it is good and has ``right``.

        Raises ``InvalidToken``, ``InsufficientScope`` (RFC 6750 section 3.1) and ``Unavailable``.
        """
        try:
            key = await self._keys.find_api_key(bearer.text)
        except CannotOpen as error:
            raise Unavailable("the server cannot open this API key", cause=str(error), retry_after_s=60) from error
        if key is None:
            known = read_api_key_id(bearer.text)
            raise InvalidToken(
                "the API key is malformed, unknown or removed", cause=f"key {known}" if known else "no API key's text"
            )
        if not key.may(right):
            raise InsufficientScope(f"this API key has not the right {right}", cause=key.actor_name)
        return key


class ApiKeyAdmin:
    """What an operator does with API keys."""

    def __init__(self, keys: ApiKeys) -> None:
        """Keep them in ``keys``."""
        self._keys = keys

    async def add_api_key(self, name: str, rights: Iterable[Right], *, actor: Actor) -> NewApiKey:
        """Make a key. Raises ``InvalidRequest`` for a wrong or taken name or no right at all, and ``Unavailable``."""
        if not is_api_key_name(name):
            raise InvalidRequest("a key's name has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit")
        wanted = frozenset(rights)
        if not wanted:
            raise InvalidRequest(f"name at least one right: {', '.join(Right)}")
        text = generate_api_key()
        match await self._keys.add_api_key(text, name, wanted, actor=actor):
            case "taken":
                raise InvalidRequest(f"there is a key {name} already: remove it, or take another name")
            case "full":
                raise InvalidRequest(f"there are {MAX_KEYS} keys already: remove what nobody uses")
        return NewApiKey(name, wanted, text)

    async def remove_api_key(self, name: str, *, actor: Actor) -> None:
        """Remove a key, from this moment on at every instance. Raises ``NotFound`` and ``Unavailable``."""
        if not is_api_key_name(name) or not await self._keys.remove_api_key(name, actor=actor):
            raise NotFound("there is no key of that name")

    async def list_api_keys(self) -> list[ApiKey]:
        """Return every key by name. Raises ``Unavailable``."""
        try:
            return await self._keys.all_api_keys()
        except CannotOpen as error:
            raise Unavailable("an API key's record cannot be opened", cause=str(error)) from error
