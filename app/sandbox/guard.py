"""Who may use the sandbox's own endpoints, which have no password.

Only loopback peers, only under a loopback name (a page that rebinds its own name to 127.0.0.1 comes with that name),
and never from another origin (any page in a browser on this machine can send a POST here).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def loopback_only(handler: Handler) -> Handler:
    """Return ``handler`` behind the guard."""

    async def guard(request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if not _is_loopback(request.remote or "") or not _is_loopback(_host_of(request.host)):
            raise web.HTTPForbidden(text="the sandbox's controls are for this machine alone, by a loopback name\n")
        if origin is not None and origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="the sandbox's controls are not for pages of another origin\n")
        return await handler(request)

    return guard


def _host_of(header: str) -> str:
    """Return the host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
