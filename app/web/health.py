"""Health: whether the process is alive, and whether it can serve."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import web

from app.container import Ping, Services
from app.errors import Unavailable
from app.model.health import HealthCheck, HealthStatus, worst_of
from app.model.text import _
from app.tasks import all_of
from app.web.route import SERVICES

PING_TIMEOUT_S: Final = 2.0

_REDIS_CURE: Final = _("check that Redis runs and that REDIS_URL is right: redis_away in the log says why")


async def healthz(_request: web.Request) -> web.Response:
    """Answer ``GET /healthz``: the event loop runs."""
    return web.json_response({"status": "ok"})


async def check_all(services: Services) -> dict[str, HealthCheck]:
    """Check every part, all at once; for one that is out of reach, say why."""
    results = await all_of(_check(ping) for ping in services.pings.values())
    checks = dict(zip(services.pings, results, strict=True))
    if services.draining.is_set():
        checks["instance"] = HealthCheck(HealthStatus.NOT_READY, _("shutting down"))
    return checks


async def _check(ping: Ping) -> HealthCheck:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            return await ping()
    except Unavailable:
        return HealthCheck(HealthStatus.NOT_READY, _("Redis cannot be reached"), _REDIS_CURE)
    except TimeoutError:
        detail = _("Redis does not answer within %(seconds)g s", seconds=PING_TIMEOUT_S)
        return HealthCheck(HealthStatus.NOT_READY, detail, _REDIS_CURE)


async def readyz(request: web.Request) -> web.Response:
    """Answer ``GET /readyz``: every part is asked, and the instance is as its worst part.

    200 where it can serve, degraded or not; 503 where a load balancer must send requests elsewhere.
    """
    checks = await check_all(request.app[SERVICES])
    status = worst_of([check.status for check in checks.values()])
    body = {
        "status": status,
        "checks": {
            name: {"status": check.status, "detail": check.detail, "cure": check.cure or ""}
            for name, check in checks.items()
        },
    }
    code = HTTPStatus.SERVICE_UNAVAILABLE if status == HealthStatus.NOT_READY else HTTPStatus.OK
    return web.json_response(body, status=code, headers={"Cache-Control": "no-store"})
