"""Facts that Python and the Lua scripts share, written once: a script knows each by the same name (``script.py``)."""

from __future__ import annotations

from typing import Final

HOUR_MS: Final = 3_600_000

LEASE_MS: Final = 3_000
"""An application whose instance does not extend its lease for so long may be overtaken by another."""

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
"""A claimed revocation without a result by then falls to the next worker."""

LAPSE_MS: Final = 60_000
"""So long after the cloud's expiry nothing is left to revoke."""

QUEUE_HEAD_LENGTH: Final = 8
"""Of each shard's queue so many are read, to see whose turn is first over all shards."""

JOB_KEPT_MS: Final = 31 * 24 * HOUR_MS
"""A job is kept for longer than any token lives (guide chapter 10.1)."""

JOB_LEASE_MS: Final = 3_000
"""A worker that does not extend its claim on a shard for so long has lost it. Two in one shard do no harm."""

JOB_SHARDS_AT_ONCE: Final = 2
"""Shards of a job that are gone through at once, whatever the number of instances."""

AUDIT_KEPT_ENTRIES: Final = 10_000
"""About so many entries each audit stream keeps once they are in the log, which is the archive.

An entry takes about 160 bytes: all 68 streams together, when they are full, 110 MB.
"""

AUDIT_MAX_ENTRIES: Final = 50_000
"""About so many entries a stream holds that are not in the log yet; then the oldest are removed, and the log says so.

That is 8 MB a stream, 550 MB for all of them; it takes a day without any instance, or a Redis that refuses positions.
"""

AUDIT_SCOPE_CHARS: Final = 2_000
"""Of a longer scope the audit has the beginning; the token's record has all of it."""

SESSION_IDLE_MS: Final = 30 * 60_000
SESSION_LONGEST_MS: Final = 12 * HOUR_MS

ATTEMPTS_KEPT_MS: Final = HOUR_MS
"""After so long without an attempt a count of attempts is forgotten."""

COUNTERS_KEPT_MS: Final = 2 * HOUR_MS
CLOUD_HEALTH_KEPT_MS: Final = 7 * 24 * HOUR_MS

PACE: Final = 0.98
"""The share of a limit in calls a second that is used: a second of the cloud's is not quite one of Redis's."""
