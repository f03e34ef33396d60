"""Actors: who does something, as the audit names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ACTOR_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The names of operators and API keys: pages, tables, logs and the audit show them."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A device, a service, an operator, a user of the command line, this server or the cloud.

    ``name`` is what the audit shows: ``device:CLIENT_ID``, ``key:NAME``, ``operator:NAME``, ``cli:USER``, ``server``,
    ``cloud`` or ``stranger``. ``request_id`` is the ``X-Request-ID`` of the request in which they act; empty outside a
    request.
    """

    name: str
    request_id: str = ""

    def __str__(self) -> str:
        return self.name


STRANGER: Final = "stranger"
"""The name of an actor who has proved nothing."""

SERVER = Actor("server")
"""Acts by itself: when a token expires, or an application is overtaken."""

CLOUD = Actor("cloud")
"""Confirms or refuses a revocation."""
