"""Hashing operators' passwords: Argon2id (RFC 9106), in threads, never too many at once."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import InvalidRequest, Unavailable
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, normalize_password
from app.model.secrets import Password, PasswordHash

_Result = TypeVar("_Result")

THREADS: Final = 2
"""Hashing at a time: each takes 64 MiB and several cores for a moment."""

MOST_AT_ONCE: Final = 16
"""Checks of passwords begun at a time, or a flood from many addresses would queue up without end."""

_UNUSABLE: Final = Password("no password is like this one")
"""Hashed in place of what no password can be, so that refusing it takes as long."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password was right, and its hash anew where the parameters have changed since."""

    right: bool
    rehashed: PasswordHash | None = None


class Passwords:
    """Makes and checks hashes; one for the process, so that its limits are the process's."""

    def __init__(self, hasher: PasswordHasher) -> None:
        """Hash as ``hasher`` does."""
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(THREADS, "argon2")
        self._begun = 0
        # With the same parameters as all others, so that an unknown name costs what a known one does. Whose password it
        # would be, nobody knows: it is no hash of anything, only random.
        terms = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        salt, tag = (_base64(secrets.token_bytes(size)) for size in (hasher.salt_len, hasher.hash_len))
        self._nobodys = PasswordHash(f"$argon2id$v=19${terms}${salt}${tag}")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Check one password in here. Raises ``Unavailable`` if too many are being checked."""
        if self._begun >= MOST_AT_ONCE:
            raise Unavailable(
                "too many people are signing in at this moment: try again", cause="hashing is at its limit"
            )
        self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1

    async def make(self, name: str, password: Password) -> PasswordHash:
        """Hash a new password of an operator. Raises ``InvalidRequest`` for one that must not be."""
        text = normalize_password(password)
        if text is None:
            raise InvalidRequest(
                f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters: a few words make a good one"
            )
        if text.reveal().casefold() == name.casefold():
            raise InvalidRequest("the password must not be the name: take another")
        return await self._in_thread(lambda: self._hash(text))

    async def check(self, kept: PasswordHash | None, password: Password) -> Verdict:
        """Tell whether the password is the one of which ``kept`` is the hash; None is nobody's, and takes as long."""
        text = normalize_password(password)
        hashed = kept or self._nobodys
        return await self._in_thread(lambda: self._check(hashed, text))

    def _hash(self, text: Password) -> PasswordHash:
        return PasswordHash(self._hasher.hash(text.reveal()))

    def _check(self, hashed: PasswordHash, text: Password | None) -> Verdict:
        try:
            self._hasher.verify(hashed.reveal(), (text or _UNUSABLE).reveal())
        except (VerificationError, InvalidHashError):
            return Verdict(right=False)
        if text is None:
            return Verdict(right=False)
        needs = self._hasher.check_needs_rehash(hashed.reveal())
        return Verdict(right=True, rehashed=self._hash(text) if needs else None)

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


PASSWORDS: Final = Passwords(PasswordHasher())
"""With the library's current profile: RFC 9106's second recommended option, 64 MiB, three passes."""
