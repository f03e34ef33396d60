"""How far the cloud is with tokens that were revoked, counted for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.store.records import TokenRecord


@dataclass(frozen=True, slots=True)
class RevokeProgress:
    """How many tokens wait for the cloud, failed there, or are live again; and which are not revoked."""

    pending: int
    failed: int
    live: int
    not_revoked: list[str]


def count_progress(records: Sequence[TokenRecord], now_ms: int) -> RevokeProgress:
    """Count by what has become of each token at ``now_ms``."""
    return RevokeProgress(
        pending=sum(is_pending(record, now_ms) for record in records),
        failed=sum(record.revocation in {"failed", "dropped"} for record in records),
        live=sum(record.state == "live" and record.expires_at_ms > now_ms for record in records),
        not_revoked=[record.handle for record in records if record.state != "revoked"],
    )


def is_pending(record: TokenRecord, now_ms: int) -> bool:
    """Return whether a token is revoked here and not yet at the cloud: until then the broker accepts it."""
    return record.state == "revoked" and record.revocation in {"", "queued"} and record.expires_at_ms > now_ms
