"""Health: whether the process is alive, and whether it can serve."""

from __future__ import annotations

import asyncio
from typing import Final, TypedDict

from aiohttp import web

from app.container import Services
from app.errors import Unavailable
from app.web.route import SERVICES

PING_TIMEOUT_S: Final = 2.0


async def healthz(_: web.Request) -> web.Response:
    """Answer ``GET /healthz``: the event loop runs."""
    return web.json_response({"status": "ok"})


class HealthCheck(TypedDict):
    """The health of one part of this instance."""

    ok: bool
    detail: str


async def check_all(services: Services) -> dict[str, HealthCheck]:
    """Check every part; for one that is out of reach, say why."""
    checks: dict[str, HealthCheck] = {}
    for name, ping in services.pings.items():
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                checks[name] = {"ok": True, "detail": await ping()}
        except (Unavailable, TimeoutError) as error:
            reason = error.description if isinstance(error, Unavailable) else "no answer"
            checks[name] = {"ok": False, "detail": reason}
    if services.draining.is_set():
        checks["instance"] = {"ok": False, "detail": "shutting down"}
    return checks


async def readyz(request: web.Request) -> web.Response:
    """Answer ``GET /readyz``: every part is asked; with one that is out of reach, 503."""
    checks = await check_all(request.app[SERVICES])
    ready = all(check["ok"] for check in checks.values())
    body = {"status": "ready" if ready else "not ready", "checks": checks}
    return web.json_response(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})
