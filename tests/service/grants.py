"""Answers of the shared quota, as tests need them."""

from __future__ import annotations

from typing import Any

from app.store.quota import PermitGrant


def grant(permits: int, *, pace: float = 10.0, **others: Any) -> PermitGrant:
    """Return an answer: without other queues, with a wide egress group, and an open cloud, unless it says otherwise."""
    given: dict[str, Any] = {
        "taken_at_us": 0,
        "again_in_s": 0.0,
        "queues": (),
        "group_queues": (),
        "group_pace": 1000.0,
        "full_pace": pace,
        "instances": 1,
        "closed_for_s": 0.0,
        "is_probe": False,
    }
    return PermitGrant(permits=permits, pace=pace, **given | others)
