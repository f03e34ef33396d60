"""How long tokens live: the limits, and from when on one is due for renewal."""

from __future__ import annotations

from typing import Final

CLOUD_MIN_LIFETIME_S: Final = 60
"""ApplyToken refuses an ExpireTime nearer than this (guide chapter 10.1)."""

MIN_LIFETIME_S: Final = CLOUD_MIN_LIFETIME_S + 5
"""The shortest life that is granted: the call to the cloud takes time too."""

MAX_LIFETIME_S: Final = 30 * 24 * 3600
"""ApplyToken accepts a later ExpireTime and silently shortens it to this (guide chapter 10.1)."""


def fresh_ms(life_s: int) -> int:
    """Return the remaining life, in ms, above which a token of this life is handed out again.

    It is max(life ÷ 4, min(360 s, life ÷ 2)): time enough to use the token, and to apply for the next before it ends.
    """
    return max(life_s * 250, min(360_000, life_s * 500))
