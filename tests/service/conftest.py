"""Services stand on the store's fixtures, and call the small cloud of the client's tests."""

from __future__ import annotations

from typing import Literal

import pytest
from argon2 import PasswordHasher

import app.service.operators
import app.service.sign_in
from app.service.passwords import Passwords
from tests.cloud.conftest import client, cloud
from tests.store.conftest import (
    book,
    device,
    devices,
    fleet,
    index,
    keys,
    operators,
    revocations,
    sessions,
    store,
    tokens,
)

__all__ = [
    "book",
    "client",
    "cloud",
    "device",
    "devices",
    "fleet",
    "hashing",
    "index",
    "keys",
    "operators",
    "revocations",
    "sessions",
    "store",
    "tokens",
]


class CountingHasher(PasswordHasher):
    """Hashes at little cost, and counts how often; of each check it keeps the parameters of the hash it was against."""

    def __init__(self, memory_cost: int = 8) -> None:
        super().__init__(time_cost=1, memory_cost=memory_cost, parallelism=1)
        self.made = 0
        self.checked: list[str] = []

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        """Hash, and count it."""
        self.made += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - the library's name for it
        """Check, and count it."""
        self.checked.append(str(hash).rpartition("$")[0].rpartition("$")[0])
        return super().verify(hash, password)


def hash_with(monkeypatch: pytest.MonkeyPatch, hasher: CountingHasher) -> CountingHasher:
    """Have the services hash with ``hasher`` from now on."""
    passwords = Passwords(hasher)
    monkeypatch.setattr(app.service.operators, "PASSWORDS", passwords)
    monkeypatch.setattr(app.service.sign_in, "PASSWORDS", passwords)
    return hasher


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> CountingHasher:
    """How the services hash: at little cost."""
    return hash_with(monkeypatch, CountingHasher())
