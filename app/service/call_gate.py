"""When background work may begin its next call to the cloud: not while it would be refused at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import Final

from app.cloud.client import CloudClient
from app.model.calls import CallRank

ASK_AGAIN_S: Final = 1.0
"""How often to find out whether calls are refused still."""


class CallGate:
    """Lets the next call begin while calls are accepted, and after a refusal one a second until one is answered.

    So, while the breaker is open, one caller waits in the quota's queue for the next probe.
    """

    def __init__(self, cloud: CloudClient, action: str, *, within_s: float) -> None:
        """Watch the calls of ``action`` through ``cloud``, which wait for ``within_s`` seconds at most."""
        self._refusal = partial(cloud.refusal, action, rank=CallRank.OPERATOR)
        self._within_s = within_s
        self._is_refusing = False
        self._next_at = 0.0
        self._answered = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the next call may begin. One caller at a time."""
        while (wait_s := self._wait_s()) > 0:
            self._answered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._answered.wait()
        if self._is_refusing:
            self._note_pause()

    def note_refused(self) -> None:
        """Note that the quota refused a call: the next one waits for a second."""
        self._is_refusing = True
        self._note_pause()

    def note_answered(self) -> None:
        """Note that the cloud answered a call."""
        self._is_refusing = False
        self._answered.set()

    def _wait_s(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._refusal(deadline=now + self._within_s):
            self._is_refusing = True
            return ASK_AGAIN_S * random.uniform(0.8, 1.0)  # noqa: S311 (no secret, only spread)
        return self._next_at - now if self._is_refusing else 0.0

    def _note_pause(self) -> None:
        self._next_at = asyncio.get_running_loop().time() + ASK_AGAIN_S
