"""Services stand on the store's fixtures."""

from __future__ import annotations

from tests.store.conftest import device, devices, keys, revocations, store, tokens

__all__ = ["device", "devices", "keys", "revocations", "store", "tokens"]
