from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from app.container import Ping, Services
from app.errors import Unavailable
from app.model.health import HealthCheck, HealthStatus
from app.model.text import _
from app.web.health import PING_TIMEOUT_S, check_all
from tests.virtual_time import run_virtual, virtual_loop


def slow(seconds: float) -> Ping:
    """Return the check of a part that takes so long."""

    async def ping() -> HealthCheck:
        await asyncio.sleep(seconds)
        return HealthCheck(HealthStatus.READY, _("it works"))

    return ping


async def away() -> HealthCheck:
    """Check a part that cannot be reached."""
    raise Unavailable("away", cause="away")


async def checked(pings: dict[str, Ping]) -> tuple[list[tuple[str, HealthStatus]], float]:
    """Check these parts; return what was found and how many seconds it took."""
    services = SimpleNamespace(pings=pings, draining=asyncio.Event())
    checks = await check_all(cast("Services", services))
    return [(name, check.status) for name, check in checks.items()], virtual_loop().time()


def test_all_parts_are_asked_at_once() -> None:
    """It takes as long as the slowest of them, and they are shown in their order."""
    ready = HealthStatus.READY
    pings = {"redis": slow(0.4), "policy": slow(0.1), "cloud": slow(0.5)}
    assert run_virtual(checked(pings)) == ([("redis", ready), ("policy", ready), ("cloud", ready)], 0.5)


def test_each_part_has_its_own_time_limit() -> None:
    """One that does not answer, or cannot be reached, takes no other along."""
    found, took_s = run_virtual(checked({"redis": slow(60), "policy": away, "cloud": slow(1.9)}))
    assert [status.value for _name, status in found] == ["not ready", "not ready", "ready"]
    assert took_s == PING_TIMEOUT_S
