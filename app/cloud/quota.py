"""What the client asks before each call: a permit, and why there may be none."""

from __future__ import annotations

from typing import Protocol

from app.cloud.errors import CloudError, ErrorKind


class Quota(Protocol):
    """Permits to call."""

    async def permit(self, action: str, count: int = 1, *, deadline: float) -> None:
        """Wait for the turn to make ``count`` calls of ``action`` at once; ``deadline`` is loop time in seconds.

        Raises ``QuotaExhausted`` and ``QuotaUnreachable``.
        """

    def refusal(self, action: str, *, deadline: float) -> QuotaExhausted | None:
        """Return what ``permit`` would raise at once, as far as is known without asking anybody."""


class QuotaExhausted(CloudError):
    """The caller's turn would come too late. ``retry_after_s`` is when all that wait now, anywhere, will be served."""

    retry_after_s: float

    def __init__(self, action: str, retry_after_s: float) -> None:
        super().__init__(
            ErrorKind.THROTTLED,
            "QuotaExhausted",
            f"the line for {action} is {retry_after_s:.1f} s long",
            retry_after_s=retry_after_s,
        )


class QuotaUnreachable(CloudError):
    """Nobody can tell what the other instances call: without the shared memory no call is made."""

    def __init__(self, cause: str) -> None:
        super().__init__(ErrorKind.UNREACHABLE, "QuotaUnreachable", cause)
