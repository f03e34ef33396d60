"""``/admin/``: the state of the whole server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import structlog

from app.cloud.errors import ErrorKind
from app.errors import Unavailable
from app.model.text import _
from app.service.audit import AuditFilter
from app.service.metrics import Hour
from app.service.revocations import select
from app.store.counters import CloudHealth
from app.web.console.chart import stack
from app.web.console.results import PageContent
from app.web.health import check_all
from app.web.route import AdminRequest

log = structlog.get_logger(__name__)

SOONEST: Final = 5
LAST_ENTRIES: Final = 10
PART_WITHIN_S: Final = 3.0
"""A part that takes longer is left out; the others are shown."""

_AWAY: Final = frozenset({ErrorKind.UNREACHABLE, ErrorKind.TRANSIENT, ErrorKind.ACCOUNT})
"""The last call's failure, of these kinds, says that the next ones will fail too, whatever they ask for."""


async def show_overview(request: AdminRequest) -> PageContent:
    """Show each part of the server's state by itself, so that one which fails takes no other along.

    Raises ``Unavailable`` if there is nothing at all to show.
    """
    metrics, revocations, everything = request.services.metrics, request.services.revocations, select(everything=True)
    steps: dict[str, Awaitable[Any]] = {
        "live": revocations.count_tokens(everything),
        "devices": request.services.registry.count_devices(),
        "hour": metrics.last_hour(),
        "queue": revocations.queue_overview(),
        "cloud": metrics.cloud_health(),
        "quotas": metrics.quota_usage(),
        "soonest": revocations.list_tokens(everything, limit=SOONEST),
        "events": request.services.audit_log.search_events(AuditFilter(), limit=LAST_ENTRIES),
    }
    *found, checks = await asyncio.gather(
        *(_read_part(name, step) for name, step in steps.items()), check_all(request.services)
    )
    parts = dict(zip(steps, found, strict=True))
    if not any(part is not None for part in found):
        raise Unavailable(_("the server cannot reach Redis: try again"))
    hour: Hour | None = parts["hour"]
    cloud: CloudHealth | None = parts["cloud"]
    return PageContent.of(
        "overview.html",
        **parts,
        checks=checks,
        chart=stack([(minute.answered, minute.turned_away) for minute in hour.minutes]) if hour else None,
        cloud_away=cloud is not None and cloud.failing_since_ms > 0 and cloud.kind in _AWAY,
    )


async def _read_part(name: str, step: Awaitable[Any]) -> Any:
    """Return what a step finds, or None where it fails or takes too long."""
    try:
        async with asyncio.timeout(PART_WITHIN_S):
            return await step
    except (Unavailable, TimeoutError) as error:
        log.warning("part_left_out", part=name, cause=getattr(error, "cause", "no answer in time"))
    except Exception:
        log.exception("part_broken", part=name)
    return None
