"""Former name of ``store.py`` and ``retry.py``."""

from app.store.retry import backoff, retry_until
from app.store.store import Store

__all__ = ["Store", "backoff", "retry_until"]
