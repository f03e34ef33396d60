"""Events of devices as tests write them."""

from __future__ import annotations

from typing import Final

from app.model.actors import Actor
from app.store.audit import Event, EventKind

ADDED: Final = Event(Actor("cli:test"), EventKind.DEVICE_ADDED)
CHANGED: Final = Event(Actor("cli:test"), EventKind.DEVICE_CHANGED)
REMOVED: Final = Event(Actor("cli:test"), EventKind.DEVICE_REMOVED)
