"""Operators in Redis: sealed records by name."""

from __future__ import annotations

from app.store.connection import Store
from app.store.sealing import KeyRing


class Operators:
    """The people at the console, as they lie in Redis."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        """Read and write through ``store``, seal with ``keys``."""
        self._store = store
        self._keys = keys
