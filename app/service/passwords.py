"""Hashing operators' passwords: Argon2id (RFC 9106), one at a time, in a thread of its own."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import InvalidRequest, Unavailable
from app.model.operators import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, normalize_password
from app.model.secrets import Password, PasswordHash
from app.model.text import _
from app.worker_threads import WorkerThreads

THREADS: Final = 1
"""Hashes computed at once: each takes 64 MiB and, by threads of its own, four cores for a moment."""

MAX_CHECKS: Final = 16
"""Password checks in progress at once; without a limit a flood from many addresses would queue up without end."""

MAX_HASHES: Final = MAX_CHECKS + 8
"""The same with the new passwords that admins set: what strangers try leaves them some."""

BUSY: Final = _("too many people are signing in at the moment: try again")

_INVALID: Final = Password("in place of an invalid password")
"""Checked in place of a text that cannot be a password, so that refusing it takes as long."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password was right; and a new hash of it, if the parameters have changed since."""

    right: bool
    rehashed: PasswordHash | None = None


class Passwords:
    """Computes and checks hashes; there is one for the process, so that its limits hold for the process."""

    def __init__(self, hasher: PasswordHasher) -> None:
        """Hash as ``hasher`` does."""
        self._hasher = hasher
        self._threads = WorkerThreads("argon2", threads=THREADS, most=MAX_HASHES, busy=BUSY)
        self._checks = 0
        # For unknown names: random, with the same parameters as real hashes, so that checking it takes as long.
        terms = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        salt, tag = (_base64(secrets.token_bytes(size)) for size in (hasher.salt_len, hasher.hash_len))
        self._decoy = PasswordHash(f"$argon2id$v=19${terms}${salt}${tag}")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Allow one password check in the block. Raises ``Unavailable`` if too many are in progress."""
        if self._checks >= MAX_CHECKS:
            raise Unavailable(BUSY, cause="hashing is at its limit")
        self._checks += 1
        try:
            yield
        finally:
            self._checks -= 1

    async def make(self, name: str, password: Password) -> PasswordHash:
        """Hash a new password. Raises ``InvalidRequest`` for one that is not allowed, and ``Unavailable``."""
        text = normalize_password(password)
        if text is None:
            raise InvalidRequest(
                _(
                    "a password must have %(least)s to %(most)s characters: use a few words",
                    least=MIN_PASSWORD_CHARS,
                    most=MAX_PASSWORD_CHARS,
                )
            )
        if text.reveal().casefold() == name.casefold():
            raise InvalidRequest(_("the password must not be the name: choose another password"))
        return await self._threads.run(lambda: self._hash(text))

    async def check(self, kept: PasswordHash | None, password: Password) -> Verdict:
        """Check a password against the hash ``kept``; None is for an unknown name, and takes as long.

        Raises ``Unavailable`` where too many wait.
        """
        text = normalize_password(password)
        hashed = kept or self._decoy
        return await self._threads.run(lambda: self._check(hashed, text))

    def _hash(self, text: Password) -> PasswordHash:
        return PasswordHash(self._hasher.hash(text.reveal()))

    def _check(self, hashed: PasswordHash, text: Password | None) -> Verdict:
        try:
            self._hasher.verify(hashed.reveal(), (text or _INVALID).reveal())
        except (VerificationError, InvalidHashError):
            return Verdict(right=False)
        if text is None:
            return Verdict(right=False)
        needs = self._hasher.check_needs_rehash(hashed.reveal())
        return Verdict(right=True, rehashed=self._hash(text) if needs else None)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


PASSWORDS: Final = Passwords(PasswordHasher())
"""With the library's current profile: RFC 9106's second recommended option, 64 MiB, three passes."""
