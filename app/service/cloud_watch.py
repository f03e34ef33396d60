"""Reports to the other instances how this one's calls to the cloud end, and knows from them whether calls are stopped.

A report is due every second. Failures by connection, throttling and results of probes are reported at once, and answers
while calls of the egress group fail. One report is under way at a time; what happens meanwhile goes into the next.
``report_calls.lua`` decides when calls are stopped (the breaker opens) and when they go on (it closes).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from app.cloud.quota import CallOutcome
from app.errors import Unavailable
from app.model.actors import SERVER
from app.model.health import HealthCheck
from app.model.times import iso_time
from app.service.audit import EventRecorder
from app.service.breaker_texts import READY, BreakerTexts, cure_of, health_of_paces, health_while_open
from app.service.call_findings import CallFindings
from app.store.audit import Event, EventKind, NewEntry
from app.store.clock import RedisClock
from app.store.quota import CloudStatus, QuotaUsageReader, SharedQuota
from app.store.redis_keys import OPERATORS_AUDIT

log = structlog.get_logger(__name__)

REPORT_EVERY_S: Final = 1.0

LEAST_PAUSE_S: Final = 0.1
"""Between two reports, however much happens."""

RECORD_WITHIN_S: Final = 2.0
"""How long to try to record that the breaker opened or closed; then the log has it."""

DUE_S: Final = 0.001
"""While calls are stopped an attempt that is due now is due in this time: 0 would be that they are not."""

USAGE_WITHIN_S: Final = 0.5
"""How long a check of the health waits for the paces; then they count as full."""

_UNKNOWN: Final = CloudStatus(is_failing=False, scope="", closed_for_s=0.0, reason="", opened_at_ms=0, change="")
"""Before the first report."""


class CloudWatch:
    """What one instance reports of its calls, and what it knows of the breaker from the answers."""

    def __init__(
        self,
        quota: SharedQuota,
        *,
        usage: QuotaUsageReader,
        recorder: EventRecorder,
        clock: RedisClock,
        texts: BreakerTexts,
        attempt_timeout_s: float,
    ) -> None:
        """Report to ``quota``, and record by ``recorder`` what the reports change. ``usage`` reads the paces.

        ``attempt_timeout_s`` is how long a call waits for its answer at most.
        """
        self._quota = quota
        self._usage = usage
        self._recorder = recorder
        self._clock = clock
        self._texts = texts
        self._findings = CallFindings(attempt_timeout_s=attempt_timeout_s)
        self._is_due = asyncio.Event()
        self.reported_at = 0.0
        """When the last report was answered (loop time, in seconds)."""
        self.status = _UNKNOWN
        """The answer to the last report."""

    def note(self, outcome: CallOutcome) -> None:
        """Note how an attempt to call ended; report it soon, or at once where the other instances need it."""
        is_stopped = bool(self.status.scope)
        self._findings.note(outcome, asyncio.get_running_loop().time(), is_stopped=is_stopped)
        if self._findings.is_urgent(group_fails=self.status.is_failing or is_stopped):
            self._is_due.set()

    def note_unsent_probe(self) -> None:
        """Note that permits to probe the cloud were not used, and let others probe."""
        self._findings.note_unsent_probe()
        self._is_due.set()

    def closed_for_s(self) -> float:
        """Return in how many seconds the next attempt is due while calls are stopped; 0: calls are not stopped."""
        if not self.status.scope:
            return 0.0
        since_s = asyncio.get_running_loop().time() - self.reported_at
        return max(DUE_S, self.status.closed_for_s - since_s)

    async def report_regularly(self) -> None:
        """Report until cancelled. While Redis is away, which the store logs, try once a second."""
        while True:
            try:
                await self.report_calls()
            except Unavailable as error:
                log.debug("calls_not_reported", cause=error.cause)
                await asyncio.sleep(REPORT_EVERY_S)
            else:
                await self._until_due()

    async def report_calls(self) -> None:
        """Report now. What cannot be reported goes into the next report. Raises ``Unavailable``."""
        self._is_due.clear()
        report = self._findings.take_report(asyncio.get_running_loop().time())
        try:
            status = await self._quota.report_calls(report)
        except Unavailable:
            self._findings.put_back(report)
            raise
        before, self.status = self.status, status
        self.reported_at = asyncio.get_running_loop().time()
        if before.scope and not status.scope:
            self._findings.end_streak()
        self._log_change(before, status)
        if status.change:
            await self._record_change(before, status)

    async def ping(self) -> HealthCheck:
        """Return whether calls are stopped or slowed down. The instance still hands out live tokens then.

        Without Redis it is unknown, and the check of Redis says so.
        """
        if self.status.scope:
            return health_while_open(self.status, self.closed_for_s())
        try:
            async with asyncio.timeout(USAGE_WITHIN_S):
                return health_of_paces(await self._usage.read_usage())
        except (Unavailable, TimeoutError) as error:
            log.debug("paces_not_read", cause=getattr(error, "cause", "no answer in time"))
            return READY

    async def _until_due(self) -> None:
        await asyncio.sleep(LEAST_PAUSE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(REPORT_EVERY_S - LEAST_PAUSE_S):
                await self._is_due.wait()

    def _log_change(self, before: CloudStatus, status: CloudStatus) -> None:
        """Log, once at each instance, that its calls are stopped, and that they go on."""
        if _breaker_of(before) == _breaker_of(status):
            return
        if before.scope:
            log.warning("breaker_closed", scope=before.scope, reason=before.reason, open_s=self._open_s(before))
        if status.scope:
            since, cure = iso_time(status.opened_at_ms), cure_of(status)
            log.warning("breaker_opened", scope=status.scope, reason=status.reason, since=since, cure=cure)

    async def _record_change(self, before: CloudStatus, status: CloudStatus) -> None:
        """Record what this instance's report changed: so it is recorded once, whatever the number of instances."""
        if status.change == "opened":
            event = Event(SERVER, EventKind.BREAKER_OPENED, self._texts.opened(status))
        else:
            # This instance's probe may have been answered before it reported, and so learned, that calls are stopped.
            ended = before if before.scope else status
            event = Event(SERVER, EventKind.BREAKER_CLOSED, self._texts.closed(ended, self._open_s(ended)))
        await self._recorder.record(NewEntry(OPERATORS_AUDIT, event), within_s=RECORD_WITHIN_S)

    def _open_s(self, status: CloudStatus) -> float:
        # Not below zero, if Redis's clock was set back.
        return round(max(0, self._clock.now_ms() - status.opened_at_ms) / 1000, 1)


def _breaker_of(status: CloudStatus) -> tuple[str, int]:
    """Return what identifies one opening of a breaker."""
    return status.scope, status.opened_at_ms
