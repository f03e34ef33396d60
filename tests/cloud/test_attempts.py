from __future__ import annotations

import pytest

from app.cloud.attempts import MAX_ATTEMPTS, MAX_UNCERTAIN_ATTEMPTS, RETRY_SPREAD_S, Attempts
from app.cloud.errors import RETRIED, TREATMENTS, CloudError, ErrorKind

FAR = 1000.0
THROTTLED = CloudError(ErrorKind.THROTTLED, "Throttling")
LOST = CloudError(ErrorKind.UNREACHABLE, "ConnectionLost", uncertain=True)


def made(error: CloudError, *, repeatable: bool = True) -> int:
    """Return how many attempts a call makes that always fails so."""
    attempts = Attempts(until=FAR, repeatable=repeatable)
    while attempts.next_pause_s(error, 0.0) is not None:
        pass
    return attempts.failed


@pytest.mark.parametrize("kind", ErrorKind)
def test_only_what_may_pass_is_tried_again(kind: ErrorKind) -> None:
    """Three attempts at most, and one where another changes nothing."""
    assert made(CloudError(kind, "Code")) == (MAX_ATTEMPTS if kind in RETRIED else 1)
    assert {ErrorKind.THROTTLED, ErrorKind.TRANSIENT, ErrorKind.UNREACHABLE} == RETRIED


def test_what_may_have_taken_effect_is_repeated_once_or_never() -> None:
    """A lost answer to an ApplyToken may have made a token; a message must not be sent twice."""
    assert made(LOST) == MAX_UNCERTAIN_ATTEMPTS
    assert made(LOST, repeatable=False) == 1
    assert made(THROTTLED, repeatable=False) == MAX_ATTEMPTS


def test_a_pause_is_longer_the_second_time() -> None:
    """At least half the back-off and at most all of it, so that callers spread and none comes back at once."""
    for kind in RETRIED:
        attempts, back_off_s = Attempts(until=FAR, repeatable=True), TREATMENTS[kind].back_off_s
        pauses_s = [attempts.next_pause_s(CloudError(kind, "Code"), 0.0) or 0.0 for _ in range(2)]
        for number, pause_s in enumerate(pauses_s, 1):
            assert number * back_off_s / 2 <= pause_s <= number * back_off_s


def test_the_cloud_says_how_long_to_pause() -> None:
    """Never less than it asks for, and hardly more."""
    error = CloudError(ErrorKind.THROTTLED, "Throttling", retry_after_s=7.0)
    pause_s = Attempts(until=FAR, repeatable=True).next_pause_s(error, 0.0)
    assert pause_s is not None
    assert 7.0 <= pause_s <= 7.0 + RETRY_SPREAD_S


def test_no_attempt_begins_after_its_time() -> None:
    """A pause that would end too late does not start: the caller learns of the failure now."""
    error = CloudError(ErrorKind.THROTTLED, "Throttling", retry_after_s=7.0)
    assert Attempts(until=17.0, repeatable=True).next_pause_s(error, 10.0) is None
    assert Attempts(until=18.0, repeatable=True).next_pause_s(error, 10.0) is not None


def test_only_an_error_of_the_account_renews_the_credentials() -> None:
    """A missing permission or parameter says nothing about the key."""
    assert [kind for kind, treatment in TREATMENTS.items() if treatment.renew_credentials] == [ErrorKind.ACCOUNT]
