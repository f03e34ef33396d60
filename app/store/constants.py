"""Facts that Python and the Lua scripts share, written once: a script knows each by the same name (``script.py``)."""

from __future__ import annotations

from typing import Final

HOUR_MS: Final = 3_600_000

LEASE_MS: Final = 3_000
"""How long an application's lease lasts if its instance does not extend it; then another instance may apply."""

HORIZON_MS: Final = 60_000
"""Longest an application may take before its record is forgotten."""

RECORD_KEPT_MS: Final = 10 * 60_000
"""A record outlives its token by this, so that what became of its revocation can still be seen."""

EVERYTHING: Final = "*"
"""The revocation watermark of every role; no role has this name (``policy_file``)."""

GENERATION: Final = "#"
"""Counts how often any watermark was raised; no role has this name either."""

PRIORITY_SPAN: Final = 2**42
"""A priority's part of the revocation queue's order: above any expiry in ms, so a score is exact in a double."""

CLAIM_MS: Final = 30_000
"""How long a claim on a revocation lasts; without a result by then the next worker gets it."""

LAPSE_MS: Final = 60_000
"""How long after the cloud's expiry a revocation lapses: nothing is left to revoke."""

QUEUE_HEAD_LENGTH: Final = 8
"""How many revocations of each shard are read to find those that go first over all shards."""

JOB_KEPT_MS: Final = 31 * 24 * HOUR_MS
"""A job is kept for longer than any token lives (guide chapter 10.1)."""

JOB_LEASE_MS: Final = 3_000
"""How long a claim on a shard lasts if its worker does not extend it. Two workers in one shard do no harm."""

JOB_SHARDS_AT_ONCE: Final = 2
"""Shards of a job that are gone through at once, whatever the number of instances."""

AUDIT_KEPT_ENTRIES: Final = 10_000
"""How many entries each audit stream keeps, about, once they are in the log, which is the archive.

An entry takes about 160 bytes: all 68 streams together, when they are full, 110 MB.
"""

AUDIT_MAX_ENTRIES: Final = 50_000
"""How many entries that are not in the log yet a stream holds, about; then the oldest are removed, and the log says so.

That is 8 MB a stream, 550 MB for all of them; it takes a day without any instance, or a Redis that refuses positions.
"""

AUDIT_SCOPE_CHARS: Final = 2_000
"""The audit has this much of a scope; the token's record has all of it."""

SESSION_IDLE_MS: Final = 30 * 60_000
SESSION_LONGEST_MS: Final = 12 * HOUR_MS

ATTEMPTS_KEPT_MS: Final = HOUR_MS
"""How long after the last attempt a count of attempts is forgotten."""

FAILURES_KEPT_MS: Final = 60_000
"""How long a failed authentication counts."""

COUNTERS_KEPT_MS: Final = 2 * HOUR_MS
CLOUD_HEALTH_KEPT_MS: Final = 7 * 24 * HOUR_MS

PERMIT_VALID_US: Final = 20_000
"""How long after it was asked for a permit may be used at least; a slow instance states more, and it counts longer."""

PERMIT_ROUNDING_US: Final = 1_000
"""Times are rounded on the way: so much longer than needed a permit counts."""

PERMIT_LONGEST_VALID_US: Final = 200_000
"""The longest that an instance may state instead: so long no other instance can use the permit's place in the limit."""

LONGEST_PAUSE_S: Final = 60
"""Between two probes of an open breaker, before it is spread."""

MAX_PAUSE_SPREAD: Final = 1.2
"""What a pause between probes is multiplied by at most."""
