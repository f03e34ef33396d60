"""Actors: who does something, as the audit names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """A device, a service, an operator, a user of the command line, this server or the cloud.

    ``name`` is what the audit shows: ``device:CLIENT_ID``, ``key:NAME``, ``operator:NAME``, ``cli:USER``, ``server`` or
    ``cloud``. ``request_id`` is the ``X-Request-ID`` of the request in which they act; empty outside a request.
    """

    name: str
    request_id: str = ""

    def __str__(self) -> str:
        return self.name


SERVER = Actor("server")
"""Acts where nobody asked: an expiry, an overtaken application."""

CLOUD = Actor("cloud")
"""Confirms or refuses a revocation."""
