"""Sessions of operators in Redis: by the hash of their ID, good for one epoch of their operator."""

from __future__ import annotations

from app.store.connection import Store
from app.store.operators import Operators
from app.store.sealing import KeyRing


class Sessions:
    """Who is signed in, as it lies in Redis."""

    def __init__(self, store: Store, keys: KeyRing, operators: Operators) -> None:
        """Read and write through ``store``, seal with ``keys``; whose a session is, ``operators`` know."""
        self._store = store
        self._keys = keys
        self._operators = operators
