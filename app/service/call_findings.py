"""What this instance has learned of the cloud from its calls since its last report. There is no I/O here.

A call fails by connection where no answer comes: it cannot connect, loses its connection, or is given up. Any answer
shows that the cloud can be reached, also a refusal and one that makes no sense.
"""

from __future__ import annotations

from typing import Final, Literal

from app.cloud.errors import ErrorKind
from app.cloud.quota import CallOutcome, QuotaRefusal
from app.store.quota import CallReport

STREAK_KEPT_S: Final = 60.0
"""How long after its last failure a streak of them is over: an old failure shows nothing of the cloud as it is now."""

LEAST_FAILING_S: Final = 0.001
"""A streak that began this moment is a streak all the same."""

_Probe = Literal["", "answered", "failed", "unsent"]


class CallFindings:
    """Gathers the outcomes of calls for one report after another. All times are loop time in seconds."""

    def __init__(self) -> None:
        """Begin with nothing learned."""
        self._failed_first_at: float | None = None
        """When the streak of calls that fail by connection began; None: there is no streak."""
        self._failed_last_at = 0.0
        self._reason = ""
        self._answered = False
        self._failed = False
        self._throttled: dict[str, int] = {}
        self._probe: _Probe = ""
        self._has_news = False

    def note(self, outcome: CallOutcome, now: float) -> None:
        """Note how an attempt to call ended. One that was not made teaches nothing."""
        if _failed_by_connection(outcome):
            self._note_failure(outcome, now)
        elif outcome.permit is not None:
            self._note_answer(outcome)

    def is_urgent(self, *, group_fails: bool) -> bool:
        """Return whether there is something that the other instances must know now.

        Failures, throttling and results of probes; an answer only while calls of the group fail, as it disproves that
        the cloud is gone.
        """
        return self._has_news or (self._answered and group_fails)

    def take_report(self, now: float) -> CallReport:
        """Return what is to be reported, and begin to gather for the next report. A streak of failures goes on."""
        report = CallReport(
            answered=self._answered,
            failed=self._failed,
            failing_s=self._failing_s(now),
            throttled=self._throttled,
            probe=self._probe,
            reason=self._reason,
        )
        self._answered, self._failed, self._throttled, self._probe, self._has_news = False, False, {}, "", False
        return report

    def put_back(self, report: CallReport) -> None:
        """Take back a report that was not delivered: the next one contains it, unless something newer replaces it."""
        self._answered |= report.answered
        self._failed |= report.failed
        self._throttled = {
            action: max(report.throttled.get(action, 0), self._throttled.get(action, 0))
            for action in {*report.throttled, *self._throttled}
        }
        if report.probe == "answered" or not self._probe:
            self._probe = report.probe

    def end_streak(self) -> None:
        """Begin anew to count for how long calls fail: the breaker has closed, so the cloud has answered elsewhere."""
        self._failed_first_at = None

    def _note_failure(self, outcome: CallOutcome, now: float) -> None:
        if self._failed_first_at is None or now > self._failed_last_at + STREAK_KEPT_S:
            self._failed_first_at = now
        self._failed, self._failed_last_at = True, now
        self._reason = outcome.error.code if outcome.error else ""
        self._has_news = True
        if outcome.permit and outcome.permit.is_probe and not self._probe:
            self._probe = "failed"

    def _note_answer(self, outcome: CallOutcome) -> None:
        self._answered = True
        self._failed_first_at = None
        permit, error = outcome.permit, outcome.error
        if permit and error and error.kind is ErrorKind.THROTTLED:
            self._throttled[outcome.action] = max(permit.taken_at_us, self._throttled.get(outcome.action, 0))
            self._has_news = True
        if permit and permit.is_probe:
            # Of a probe's two calls one answer is enough.
            self._probe = "answered"
            self._has_news = True

    def _failing_s(self, now: float) -> float:
        """Return for how long calls have failed without an answer; 0: they do not fail."""
        if self._failed_first_at is None or now > self._failed_last_at + STREAK_KEPT_S:
            return 0.0
        return max(LEAST_FAILING_S, now - self._failed_first_at)


def _failed_by_connection(outcome: CallOutcome) -> bool:
    error = outcome.error
    # Without a permit of the quota no attempt was made.
    return error is not None and error.kind is ErrorKind.UNREACHABLE and not isinstance(error, QuotaRefusal)
