"""API keys of services: adding, removing and verifying them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.errors import InsufficientScope, InvalidRequest, InvalidToken, NotFound
from app.model.actors import Actor
from app.model.api_keys import ApiKey, Right, generate_api_key, is_api_key_name, read_api_key_id
from app.model.secrets import ApiKeyText
from app.model.text import _
from app.service.failure_limits import FailureLimits, counters_of
from app.service.refusal_texts import cannot_decrypt
from app.store.api_keys import MAX_KEYS, ApiKeys
from app.store.sealing import CannotOpen


@dataclass(frozen=True, slots=True)
class Bearer:
    """An API key as it was sent, unverified."""

    text: ApiKeyText


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A new key; its text is shown only once."""

    name: str
    rights: frozenset[Right]
    text: ApiKeyText


class KeyCheck:
    """Verifies API keys."""

    def __init__(self, keys: ApiKeys, failures: FailureLimits) -> None:
        """Look keys up in ``keys`` at each request, so that a removal takes effect at once; count in ``failures``."""
        self._keys = keys
        self._failures = failures

    async def is_valid(self, bearer: Bearer) -> bool:
        """Return whether the key is valid, and count no failure: ``verify`` decides. Raises ``Unavailable``."""
        try:
            return await self._keys.find_api_key(bearer.text) is not None
        except CannotOpen:
            return False

    async def verify(self, bearer: Bearer, right: Right, *, address: str) -> ApiKey:
        """Return the key if it is valid and has ``right``; ``address`` is the caller's IP address, or empty.

        Raises ``InvalidToken``, ``TooManyFailures``, ``InsufficientScope`` (RFC 6750 section 3.1) and ``Unavailable``.
        """
        try:
            key = await self._keys.find_api_key(bearer.text)
        except CannotOpen as error:
            raise cannot_decrypt(str(error)) from error
        if key is None:
            known = read_api_key_id(bearer.text)
            refusal = InvalidToken(
                _("the API key is malformed, unknown or removed"),
                cause=f"key {known}" if known else "not the form of an API key",
            )
            with self._failures.place():
                await self._failures.refuse(counters_of(address=address), refusal)
        if not key.may(right):
            raise InsufficientScope(
                _("this API key does not have the right %(right)s", right=right.value), cause=key.actor_name
            )
        return key


class ApiKeyAdmin:
    """Adds, removes and lists API keys."""

    def __init__(self, keys: ApiKeys) -> None:
        """Keep them in ``keys``."""
        self._keys = keys

    async def add_api_key(self, name: str, rights: Iterable[Right], *, actor: Actor) -> NewApiKey:
        """Add a key. Raises ``InvalidRequest`` for an invalid or taken name or no right, and ``Unavailable``."""
        if not is_api_key_name(name):
            raise InvalidRequest(
                _("not a valid name for a key: expected 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first")
            )
        wanted = frozenset(rights)
        if not wanted:
            raise InvalidRequest(_("no right was given: choose at least one of %(rights)s", rights=", ".join(Right)))
        text = generate_api_key()
        match await self._keys.add_api_key(text, name, wanted, actor=actor):
            case "taken":
                raise InvalidRequest(
                    _("there is already a key named %(name)s: remove it, or choose another name", name=name)
                )
            case "full":
                raise InvalidRequest(_("there are %(most)s keys already: remove unused ones first", most=MAX_KEYS))
        return NewApiKey(name, wanted, text)

    async def remove_api_key(self, name: str, *, actor: Actor) -> None:
        """Remove a key, with effect at once at every instance. Raises ``NotFound`` and ``Unavailable``."""
        if not is_api_key_name(name) or not await self._keys.remove_api_key(name, actor=actor):
            raise NotFound(_("there is no key of that name"))

    async def list_api_keys(self) -> list[ApiKey]:
        """Return every key by name. Raises ``Unavailable``."""
        try:
            return await self._keys.all_api_keys()
        except CannotOpen as error:
            raise cannot_decrypt(str(error)) from error
