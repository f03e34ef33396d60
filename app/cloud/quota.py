"""What the client needs before each call: a place among the calls under way and a permit, and why there is none.

CloudError
└── QuotaRefusal            nothing was sent
    ├── QuotaExhausted      the caller's turn would come too late
    ├── CloudClosed         the cloud does not answer, and is left alone for a while
    └── QuotaUnreachable    Redis does not answer
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from app.cloud.errors import CloudError, ErrorKind
from app.model.calls import CallRank
from app.model.text import _


class CallPermit(NamedTuple):
    """The permit to send what a place is for: now, and not from ``void_at`` on (loop time, in seconds).

    ``taken_at_us`` is Redis's time when it was taken, in µs. ``is_probe``: the cloud did not answer lately, and this
    call shows whether it does again.
    """

    void_at: float
    taken_at_us: int
    is_probe: bool


class CallPlace(Protocol):
    """A place among the calls under way, for one call or for several that are sent together."""

    async def permit(self) -> CallPermit:
        """Wait, connected, for the permits of all calls at once. Raises as ``Quota.place``.

        Asking again gives an unused permit back, and the caller keeps its turn.
        """

    def give_back(self) -> None:
        """Give permits back that were taken and not used; the caller keeps its turn, and connects once more."""

    def disconnected(self) -> None:
        """Note that a connection was lost: ``permit``, where it is waited for, returns a void one at once."""


class Quota(Protocol):
    """The calls under way, and permits for them."""

    def place(
        self, action: str, count: int = 1, *, rank: CallRank, deadline: float
    ) -> AbstractAsyncContextManager[CallPlace]:
        """Wait for the place for ``count`` calls of ``action``, and keep it until they are over.

        Callers are served by ``rank``, then in the order in which they came. ``deadline`` is loop time in seconds.
        Raises ``QuotaExhausted``, ``CloudClosed`` and ``QuotaUnreachable``.
        """

    def refusal(
        self, action: str, count: int = 1, *, rank: CallRank = CallRank.FIRST, deadline: float
    ) -> QuotaExhausted | CloudClosed | None:
        """Return what ``place`` would raise at once, as far as is known without asking Redis."""


class CallOutcome(NamedTuple):
    """How an attempt to call ended: ``error`` is None after a success, ``permit`` if it failed before it had one."""

    action: str
    error: CloudError | None
    permit: CallPermit | None


class QuotaRefusal(CloudError):
    """There is no permit for a call, so it was not made."""


class QuotaExhausted(QuotaRefusal):
    """The caller's turn would come too late. ``retry_after_s`` is when all that wait now, anywhere, will be served."""

    retry_after_s: float

    def __init__(self, action: str, retry_after_s: float) -> None:
        super().__init__(
            ErrorKind.THROTTLED,
            "QuotaExhausted",
            _("the calls of %(action)s that wait take %(seconds).1f s", action=action, seconds=retry_after_s),
            retry_after_s=retry_after_s,
        )


class CloudClosed(QuotaRefusal):
    """The cloud does not answer (its circuit breaker is open). ``retry_after_s`` is when it will be tried again."""

    retry_after_s: float

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            ErrorKind.UNREACHABLE,
            "BreakerOpen",
            _("the cloud does not answer, and is tried again in %(seconds).1f s", seconds=retry_after_s),
            retry_after_s=retry_after_s,
        )


class QuotaUnreachable(QuotaRefusal):
    """Without Redis it is unknown what the other instances call, so no call is made."""

    def __init__(self, cause: str) -> None:
        super().__init__(ErrorKind.UNREACHABLE, "QuotaUnreachable", cause)
