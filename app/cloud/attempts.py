"""Which failed calls to the cloud are made again, how often, and after which pause. There is no I/O here."""

from __future__ import annotations

import random
from typing import Final

from app.cloud.errors import TREATMENTS, CloudError
from app.cloud.quota import QuotaRefusal

MAX_ATTEMPTS: Final = 3
MAX_UNCERTAIN_ATTEMPTS: Final = 2
"""An ApplyToken whose answer was lost leaves a token that is stored nowhere, so it is sent once more and not twice."""

RETRY_SPREAD_S: Final = 0.2
"""At most this is added to the pause that the cloud asks for, so that callers do not come back all at once."""

_random: Final = random.SystemRandom()


class Attempts:
    """The attempts of one call. All times are loop time in seconds."""

    def __init__(self, *, until: float, repeatable: bool) -> None:
        """Start none after ``until``. ``repeatable`` says that a call which takes effect twice does no harm."""
        self.until = until
        self.failed = 0
        self._uncertain = 0
        self._max_uncertain = MAX_UNCERTAIN_ATTEMPTS if repeatable else 1

    def next_pause_s(self, error: CloudError, now: float) -> float | None:
        """Count a failed attempt; return how many seconds to wait before the next, or None if there is none."""
        self.failed += 1
        self._uncertain += error.uncertain
        pause_s = self._pause_s(error)
        is_over = self.failed == MAX_ATTEMPTS or self._uncertain == self._max_uncertain
        return None if is_over or pause_s is None or now + pause_s >= self.until else pause_s

    def _pause_s(self, error: CloudError) -> float | None:
        back_off_s = TREATMENTS[error.kind].back_off_s
        if not back_off_s or isinstance(error, QuotaRefusal):  # the quota has waited for as long as there was time
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s + _random.uniform(0, RETRY_SPREAD_S)
        # At least half of it; before the third attempt twice as long.
        return self.failed * back_off_s * _random.uniform(0.5, 1)
