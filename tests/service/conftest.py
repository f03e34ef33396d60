"""Services stand on the store's fixtures, and call the small cloud of the client's tests."""

from __future__ import annotations

from tests.cloud.conftest import client, cloud
from tests.store.conftest import book, device, devices, fleet, index, keys, revocations, store, tokens

__all__ = [
    "book",
    "client",
    "cloud",
    "device",
    "devices",
    "fleet",
    "index",
    "keys",
    "revocations",
    "store",
    "tokens",
]
