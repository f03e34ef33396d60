"""What this instance has learned of the cloud from its calls since its last report. There is no I/O here.

A call fails by connection where no answer comes: it cannot connect, loses its connection, or waits in vain as long as
an attempt may take. Any answer shows that the cloud can be reached, also a refusal and one that makes no sense.
"""

from __future__ import annotations

from typing import Final, Literal

from app.cloud.errors import ErrorKind
from app.cloud.quota import CallOutcome, CallPermit
from app.store.quota import MAX_VALID_S, CallReport

STREAK_KEPT_S: Final = 60.0
"""How long after its last failure a streak of them is over: an old failure shows nothing of the cloud as it is now."""

NEWS_KEPT_S: Final = 2.0
"""How long an answer or a failure is worth reporting. It can be older where Redis was away."""

LEAST_FAILING_S: Final = 0.001
"""A streak that began this moment is a streak all the same."""

_Probe = Literal["", "answered", "failed", "unsent"]


class CallFindings:
    """Gathers the outcomes of calls for one report after another. All times are loop time in seconds."""

    def __init__(self, *, attempt_timeout_s: float) -> None:
        """Begin with nothing learned. ``attempt_timeout_s`` is how long a call waits for its answer at most."""
        # A call is sent at most so long before its permit is void.
        self._no_answer_s = attempt_timeout_s - MAX_VALID_S
        self._failed_first_at: float | None = None
        """When the streak of calls that fail by connection began; None: there is no streak."""
        self._failed_last_at = 0.0
        self._reason = ""
        self._answered = False
        self._answered_at = 0.0
        self._failed = False
        self._throttled: dict[str, int] = {}
        self._probe: _Probe = ""
        self._has_news = False

    def note(self, outcome: CallOutcome, now: float, *, is_stopped: bool = False) -> None:
        """Note how an attempt to call ended; ``is_stopped``: calls are stopped, but for probes.

        An attempt that was not made teaches nothing.
        """
        permit, error = outcome.permit, outcome.error
        if error is None or error.kind is not ErrorKind.UNREACHABLE:
            if permit:
                self._note_answer(outcome, permit, now)
        elif self._is_failure(outcome, now):
            self._note_failure(outcome, now)
            # A probe that cannot connect gets no permit.
            is_probe = outcome.permit.is_probe if outcome.permit else is_stopped
            if is_probe and self._probe != "answered":
                self._probe = "failed"
        elif permit and permit.is_probe:
            # Given up too early to show anything: as if it had not been sent.
            self.note_unsent_probe()

    def is_urgent(self, *, group_fails: bool) -> bool:
        """Return whether there is something that the other instances must know now.

        Failures, throttling and results of probes; an answer only while calls of the group fail, as it disproves that
        the cloud is gone.
        """
        return self._has_news or (self._answered and group_fails)

    def take_report(self, now: float) -> CallReport:
        """Return what is to be reported, and begin to gather for the next report. A streak of failures goes on."""
        is_answer_old = now > self._answered_at + NEWS_KEPT_S
        report = CallReport(
            answered=self._answered and not is_answer_old,
            failed=self._failed and now <= self._failed_last_at + NEWS_KEPT_S,
            failing_s=self._failing_s(now),
            throttled=self._throttled,
            probe="" if self._probe == "answered" and is_answer_old else self._probe,
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

    def note_unsent_probe(self) -> None:
        """Note that permits to probe the cloud were not used, or show nothing."""
        self._probe = self._probe or "unsent"
        self._has_news = True

    def end_streak(self) -> None:
        """Begin anew to count for how long calls fail: the breaker has closed, so the cloud has answered elsewhere."""
        self._failed_first_at = None

    def _is_failure(self, outcome: CallOutcome, now: float) -> bool:
        """Return whether a call without an answer shows that the cloud cannot be reached."""
        if outcome.permit is None:
            # All other errors before there is a permit say that no attempt was made.
            return outcome.error is not None and outcome.error.code == "CannotConnect"
        # A caller whose deadline comes first gives up sooner: a slow cloud may still answer others.
        is_given_up = outcome.error is not None and outcome.error.code == "Timeout"
        waited_s = now - outcome.permit.void_at
        return not is_given_up or waited_s >= self._no_answer_s

    def _note_failure(self, outcome: CallOutcome, now: float) -> None:
        if self._failed_first_at is None or now > self._failed_last_at + STREAK_KEPT_S:
            self._failed_first_at = now
        self._failed, self._failed_last_at = True, now
        self._reason = outcome.error.code if outcome.error else ""
        self._has_news = True

    def _note_answer(self, outcome: CallOutcome, permit: CallPermit, now: float) -> None:
        self._answered, self._answered_at = True, now
        self._failed_first_at = None
        if outcome.error and outcome.error.kind is ErrorKind.THROTTLED:
            self._throttled[outcome.action] = max(permit.taken_at_us, self._throttled.get(outcome.action, 0))
            self._has_news = True
        if permit.is_probe:
            # Of a probe's two calls one answer is enough.
            self._probe = "answered"
            self._has_news = True

    def _failing_s(self, now: float) -> float:
        """Return for how long calls have failed without an answer; 0: they do not fail."""
        if self._failed_first_at is None or now > self._failed_last_at + STREAK_KEPT_S:
            return 0.0
        return max(LEAST_FAILING_S, now - self._failed_first_at)
