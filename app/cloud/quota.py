"""What the client needs before each call: a permit, and why there may be none."""

from __future__ import annotations

from typing import Protocol

from app.cloud.errors import CloudError, ErrorKind
from app.model.text import _


class Quota(Protocol):
    """Permits to call."""

    async def permit(self, action: str, count: int = 1, *, deadline: float) -> None:
        """Wait for permits to make ``count`` calls of ``action`` at once; ``deadline`` is loop time in seconds.

        Raises ``QuotaExhausted`` and ``QuotaUnreachable``.
        """

    def refusal(self, action: str, *, deadline: float) -> QuotaExhausted | None:
        """Return what ``permit`` would raise at once, as far as is known without asking Redis."""


class QuotaExhausted(CloudError):
    """The caller's turn would come too late. ``retry_after_s`` is when all that wait now, anywhere, will be served."""

    retry_after_s: float

    def __init__(self, action: str, retry_after_s: float) -> None:
        super().__init__(
            ErrorKind.THROTTLED,
            "QuotaExhausted",
            _("the calls of %(action)s that wait take %(seconds).1f s", action=action, seconds=retry_after_s),
            retry_after_s=retry_after_s,
        )


class QuotaUnreachable(CloudError):
    """Without Redis it is unknown what the other instances call, so no call is made."""

    def __init__(self, cause: str) -> None:
        super().__init__(ErrorKind.UNREACHABLE, "QuotaUnreachable", cause)
