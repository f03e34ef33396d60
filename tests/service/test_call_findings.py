"""The findings alone, in a time of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import CallOutcome, CallPermit, CloudClosed, QuotaExhausted, QuotaRefusal, QuotaUnreachable
from app.service.call_findings import NEWS_KEPT_S, STREAK_KEPT_S, CallFindings

PERMIT: Final = CallPermit(void_at=0.0, taken_at_us=7, is_probe=False)
PROBE: Final = CallPermit(void_at=0.0, taken_at_us=7, is_probe=True)

GONE: Final = CloudError(ErrorKind.UNREACHABLE, "ConnectionLost")
PROBE_ANSWERED: Final = CallOutcome("ApplyToken", None, PROBE)
OK: Final = CallOutcome("ApplyToken", None, PERMIT)
LOST: Final = CallOutcome("ApplyToken", GONE, PERMIT)
NOT_CONNECTED: Final = CallOutcome("ApplyToken", CloudError(ErrorKind.UNREACHABLE, "CannotConnect"), None)

ANSWERS: Final = [
    OK,
    *(
        CallOutcome("ApplyToken", CloudError(kind, "Refused", status=status), PERMIT)
        for kind in ErrorKind
        if kind is not ErrorKind.UNREACHABLE
        for status in (200, 400, 429, 502)
    ),
]
NOT_MADE: Final = [
    CallOutcome("ApplyToken", error, None)
    for error in (
        QuotaExhausted("ApplyToken", 3.0),
        CloudClosed(3.0),
        QuotaUnreachable("redis"),
        QuotaRefusal(ErrorKind.UNREACHABLE, "Timeout"),
        CloudError(ErrorKind.TRANSIENT, "CredentialsUnavailable"),
        CloudError(ErrorKind.PARAMETER, "NotSent"),
    )
]


def throttled(action: str, taken_at_us: int) -> CallOutcome:
    """Return a call that the cloud refused by Throttling."""
    error = CloudError(ErrorKind.THROTTLED, "ApplyTokenOverflow", status=400)
    return CallOutcome(action, error, CallPermit(0.0, taken_at_us, is_probe=False))


def test_failures_by_connection_last_from_the_first_one_on() -> None:
    """However many more come; and the last one says why."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(LOST, 10.0)
    assert 0 < findings.take_report(10.0).failing_s < 0.01
    findings.note(NOT_CONNECTED, 11.5)
    report = findings.take_report(12.0)
    assert (report.failed, report.failing_s, report.reason) == (True, 2.0, "CannotConnect")
    assert not findings.take_report(12.5).failed
    assert findings.take_report(12.5).failing_s == 2.5


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda outcome: str(outcome.error))
def test_any_answer_shows_that_the_cloud_can_be_reached(answer: CallOutcome) -> None:
    """A refusal of any kind, and one that makes no sense, is never a failure, and ends a streak of failures."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(LOST, 1.0)
    for number in range(100):
        findings.note(answer, 2.0 + number)
    report = findings.take_report(102.0)
    assert (report.answered, report.failing_s) == (True, 0.0)


@pytest.mark.parametrize("outcome", NOT_MADE, ids=lambda outcome: str(outcome.error))
def test_a_call_that_was_not_made_teaches_nothing(outcome: CallOutcome) -> None:
    """It is neither an answer nor a failure."""
    findings = CallFindings(attempt_timeout_s=3.0)
    for number in range(100):
        findings.note(outcome, float(number))
    assert findings.take_report(100.0) == CallFindings(attempt_timeout_s=3.0).take_report(100.0)
    assert not findings.is_urgent(group_fails=True)


@pytest.mark.parametrize(("waited_s", "is_failure"), [(1.0, False), (2.7, False), (2.85, True), (3.0, True)])
def test_a_call_that_was_given_up_early_is_no_failure(waited_s: float, is_failure: bool) -> None:  # noqa: FBT001
    """The caller's deadline came, not the end of an attempt: a slow cloud may answer those that wait."""
    findings = CallFindings(attempt_timeout_s=3.0)
    given_up = CallOutcome("ApplyToken", CloudError(ErrorKind.UNREACHABLE, "Timeout", uncertain=True), PERMIT)
    for number in range(100):
        findings.note(given_up._replace(permit=PERMIT._replace(void_at=float(number))), number + waited_s)
    report = findings.take_report(99 + waited_s)
    assert (report.answered, report.failed, report.failing_s > 0) == (False, is_failure, is_failure)


@pytest.mark.parametrize(("waited_s", "result"), [(2.7, "unsent"), (2.85, "failed")])
def test_a_probe_that_was_given_up_early_has_not_failed(waited_s: float, result: str) -> None:
    """It shows nothing of the cloud, which may answer within the time-out: the next pause does not grow."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(CallOutcome("ApplyToken", CloudError(ErrorKind.UNREACHABLE, "Timeout"), PROBE), waited_s)
    assert findings.is_urgent(group_fails=True)
    assert findings.take_report(waited_s).probe == result


def test_while_calls_are_stopped_one_that_cannot_connect_is_a_probe() -> None:
    """It never gets as far as a permit. A call that was under way before is none."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(LOST, 1.0, is_stopped=True)
    assert findings.take_report(1.0).probe == ""
    findings.note(NOT_CONNECTED, 1.0)
    assert findings.take_report(1.0).probe == ""
    findings.note(NOT_CONNECTED, 1.0, is_stopped=True)
    assert findings.take_report(1.0).probe == "failed"


def test_a_probe_that_was_not_sent_is_reported() -> None:
    """Unless one of its calls was sent all the same."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note_unsent_probe()
    assert findings.is_urgent(group_fails=True)
    assert findings.take_report(1.0).probe == "unsent"
    for outcome, result in ((LOST._replace(permit=PROBE), "failed"), (PROBE_ANSWERED, "answered")):
        findings.note_unsent_probe()
        findings.note(outcome, 1.0)
        findings.note_unsent_probe()
        assert findings.take_report(1.0).probe == result


def test_an_old_streak_is_over() -> None:
    """A failure of the night before does not make one of the morning last for hours."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(LOST, 0.0)
    assert findings.take_report(STREAK_KEPT_S).failing_s == STREAK_KEPT_S
    assert findings.take_report(STREAK_KEPT_S + 1).failing_s == 0
    findings.note(LOST, 30_000.0)
    assert findings.take_report(30_001.0).failing_s == 1.0


def test_when_the_breaker_closes_a_streak_begins_anew() -> None:
    """Another instance was answered: what failed here before shows nothing."""
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(LOST, 0.0)
    findings.end_streak()
    assert findings.take_report(5.0).failing_s == 0
    findings.note(LOST, 6.0)
    assert findings.take_report(7.0).failing_s == 1.0


def test_of_throttled_calls_the_latest_counts() -> None:
    """For each action by itself, in whatever order the answers come."""
    findings = CallFindings(attempt_timeout_s=3.0)
    for action, taken_at_us in (("ApplyToken", 5), ("QueryToken", 9), ("ApplyToken", 8), ("ApplyToken", 6)):
        findings.note(throttled(action, taken_at_us), 1.0)
    report = findings.take_report(1.0)
    assert report.throttled == {"ApplyToken": 8, "QueryToken": 9}
    assert report.answered
    assert not findings.take_report(2.0).throttled


@pytest.mark.parametrize(
    ("errors", "result"),
    [([None], "answered"), ([GONE], "failed"), ([GONE, None], "answered"), ([None, GONE], "answered")],
)
def test_of_a_probes_calls_one_answer_is_enough(errors: list[CloudError | None], result: str) -> None:
    """A probe of two calls failed if no answer came to either."""
    findings = CallFindings(attempt_timeout_s=3.0)
    for error in errors:
        findings.note(CallOutcome("ApplyToken", error, PROBE), 1.0)
    assert findings.take_report(1.0).probe == result


def test_what_the_others_must_know_is_urgent() -> None:
    """Failures, throttling and probes always; an answer only while calls of the group fail; and each once."""
    for outcome in (LOST, NOT_CONNECTED, throttled("ApplyToken", 1), PROBE_ANSWERED):
        findings = CallFindings(attempt_timeout_s=3.0)
        findings.note(outcome, 1.0)
        assert findings.is_urgent(group_fails=False)
        findings.take_report(1.0)
        assert not findings.is_urgent(group_fails=True)
    findings = CallFindings(attempt_timeout_s=3.0)
    findings.note(OK, 1.0)
    assert not findings.is_urgent(group_fails=False)
    assert findings.is_urgent(group_fails=True)


class Model:
    """All outcomes, and what must have been delivered by the reports that were."""

    def __init__(self) -> None:
        self.findings = CallFindings(attempt_timeout_s=3.0)
        self.now = 0.0
        self.failing_since: float | None = None
        self.failed_at = self.answered_at = 0.0
        self.answered = self.failed = False
        self.throttled: dict[str, int] = {}
        self.probe = ""

    def note(self, outcome: CallOutcome) -> None:
        """Note it in both."""
        self.findings.note(outcome, self.now)
        if outcome in (LOST, NOT_CONNECTED):
            if self.failing_since is None or self.now > self.failed_at + STREAK_KEPT_S:
                self.failing_since = self.now
            self.failed, self.failed_at = True, self.now
        elif outcome in ANSWERS or outcome.permit:
            self.answered, self.answered_at, self.failing_since = True, self.now, None
            if outcome.permit and outcome.permit.is_probe:
                self.probe = "answered"
            if outcome.error and outcome.error.kind is ErrorKind.THROTTLED and outcome.permit:
                latest = max(self.throttled.get(outcome.action, 0), outcome.permit.taken_at_us)
                self.throttled[outcome.action] = latest

    def report(self, *, is_lost: bool) -> None:
        """Report; a report that is not lost contains all since the last such."""
        report = self.findings.take_report(self.now)
        if is_lost:
            self.findings.put_back(report)
            return
        has_answer = self.answered and self.now <= self.answered_at + NEWS_KEPT_S
        assert report.answered == has_answer
        assert report.failed == (self.failed and self.now <= self.failed_at + NEWS_KEPT_S)
        assert report.probe == (self.probe if has_answer else "")
        assert report.throttled == self.throttled
        is_over = self.failing_since is None or self.now > self.failed_at + STREAK_KEPT_S
        assert report.failing_s == (0 if is_over else max(0.001, self.now - (self.failing_since or 0)))
        self.answered = self.failed = False
        self.throttled, self.probe = {}, ""


def passing(seconds: float) -> Callable[[Model], None]:
    """Let time pass."""

    def step(model: Model) -> None:
        model.now += seconds

    return step


def noting(outcome: CallOutcome) -> Callable[[Model], None]:
    """Note an outcome."""
    return lambda model: model.note(outcome)


def reporting(is_lost: bool) -> Callable[[Model], None]:  # noqa: FBT001
    """Report, with or without success."""
    return lambda model: model.report(is_lost=is_lost)


STEPS: Final = st.one_of(
    st.floats(0, 100).map(passing),
    st.sampled_from([LOST, NOT_CONNECTED, *ANSWERS, *NOT_MADE, PROBE_ANSWERED]).map(noting),
    st.builds(throttled, st.sampled_from(["ApplyToken", "QueryToken"]), st.integers(1, 9)).map(noting),
    st.booleans().map(reporting),
)


@given(st.lists(STEPS, max_size=60))
def test_nothing_is_lost_with_a_report(steps: list[Callable[[Model], None]]) -> None:
    """A report that is delivered has all that happened since the last such and still says something of the cloud."""
    model = Model()
    for step in steps:
        step(model)
    model.report(is_lost=False)
