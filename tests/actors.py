"""Who acts in a test, where it does not matter who."""

from __future__ import annotations

from typing import Final

from app.model.actors import Actor

CLI: Final = Actor("cli:test")
