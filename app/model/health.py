"""The health of a part of an instance: whether it can serve, what is wrong, and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.model.text import Text


class HealthStatus(StrEnum):
    """Whether requests can be served, the best first."""

    READY = "ready"
    DEGRADED = "degraded"
    """Requests are served, and something needs the operator's attention."""
    NOT_READY = "not ready"
    """A load balancer must send requests elsewhere."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The health of one part. ``cure`` says what to do, and is empty where there is nothing to do."""

    status: HealthStatus
    detail: Text
    cure: Text | None = None


def worst_of(statuses: list[HealthStatus]) -> HealthStatus:
    """Return the worst of several; ready if there is none."""
    order = list(HealthStatus)
    return max(statuses, key=order.index, default=HealthStatus.READY)
