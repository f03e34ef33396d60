"""Sealing keys as an operator would generate them."""

from __future__ import annotations

import base64
import os

from app.model.secrets import Secret


def new_key_text(key_id: str) -> Secret:
    """Generate a key in the form of ``SEALING_KEYS``."""
    return Secret(f"{key_id}:{base64.b64encode(os.urandom(32)).decode()}")
