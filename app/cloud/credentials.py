"""The access key that signs calls: a lasting one from the settings, or temporary ones renewed before they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from app.cloud.errors import CloudError, ErrorKind
from app.model.secrets import AccessKeySecret, Secret
from app.model.text import _
from app.tasks import in_thread

RENEW_AHEAD_S: Final = 900.0
"""How long before they expire temporary credentials are renewed; those with a shorter life at half of it."""

LEAST_LEFT_MS: Final = 5_000
"""Credentials this near to their expiry are not used: the call would come too late."""

LOOK_EVERY_S: Final = 60.0
"""How often to ask a source that names no expiry; and how far the wall clock and the waiting may drift apart."""

FETCH_WITHIN_S: Final = 30.0
FIRST_BACK_OFF_S: Final = 1.0
LAST_BACK_OFF_S: Final = 30.0
INVALIDATE_EVERY_S: Final = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, with an STS token if it is a temporary one."""

    access_key_id: str
    access_key_secret: AccessKeySecret
    security_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source gave. ``expires_at_ms`` is in Unix ms, None where the source does not say."""

    credentials: Credentials
    source: str
    expires_at_ms: int | None = None


class NoCredentials(Exception):
    """No source gave credentials. The text names the sources and what went wrong, and quotes none of them."""


class CredentialsProvider(Protocol):
    """The source of the credentials for calls to the cloud."""

    async def get(self, *, deadline: float) -> Credentials:
        """Return credentials that are valid now, by ``deadline`` (loop time, in seconds). Raises ``CloudError``."""

    def invalidate(self) -> None:
        """Note that the cloud did not accept the credentials."""


class LastingCredentials:
    """An access key that does not change."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def get(self, *, deadline: float) -> Credentials:  # noqa: ARG002 (it never waits)
        """Return the key."""
        return self._credentials

    def invalidate(self) -> None:
        """Do nothing: there is no other key."""


class RenewedCredentials:
    """Credentials fetched by one task, ``run``, ahead of their expiry: no call waits while the old ones are valid.

    However many calls wait, one fetch is under way, in a thread: a slow source does not stall the loop.
    """

    def __init__(self, fetch: Callable[[], Fetched], now_ms: Callable[[], int]) -> None:
        """``fetch`` blocks, and raises ``NoCredentials``; ``now_ms`` returns the time in Unix ms."""
        self._fetch = fetch
        self._now_ms = now_ms
        self._current: Fetched | None = None
        self._idle = asyncio.Event()
        """No fetch is under way, nor about to start for the first time."""
        self._invalidated = asyncio.Event()
        self._failure = ""
        self._failures = 0
        self._last_fetch_at = self._next_fetch_at = 0.0

    async def get(self, *, deadline: float) -> Credentials:
        """Return the credentials; where they have expired, wait for the fetch under way until ``deadline``.

        Raises ``CloudError``, transient: with ``retry_after_s`` where the last fetch failed.
        """
        if self._current is None or not self._is_good(self._current):
            await self._wait(deadline)
        if self._current is None or not self._is_good(self._current):
            pause_s = max(0.0, self._next_fetch_at - asyncio.get_running_loop().time())
            why = self._failure or _("the credentials have expired")
            raise CloudError(ErrorKind.TRANSIENT, "CredentialsUnavailable", why, retry_after_s=pause_s)
        return self._current.credentials

    def invalidate(self) -> None:
        """Fetch soon, but not at each refusal: a missing permission is the likelier cause."""
        if asyncio.get_running_loop().time() - self._last_fetch_at > INVALIDATE_EVERY_S:
            self._invalidated.set()

    async def run(self) -> None:
        """Fetch and renew until cancelled."""
        while True:
            self._idle.clear()
            try:
                pause_s = await self._renew()
            finally:
                self._idle.set()
            await self._until_due(pause_s)

    async def _wait(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._idle.wait()
        except TimeoutError:
            raise CloudError(
                ErrorKind.TRANSIENT, "CredentialsUnavailable", _("their source has not answered yet")
            ) from None

    async def _renew(self) -> float:
        """Fetch once; return how long to wait before the next, in seconds."""
        clock = asyncio.get_running_loop().time
        self._last_fetch_at = clock()
        self._invalidated.clear()
        try:
            async with asyncio.timeout(FETCH_WITHIN_S):
                fetched = await in_thread(self._fetch_good, name="credentials")
        except (NoCredentials, TimeoutError) as error:
            self._failure = str(error) or f"no answer in {FETCH_WITHIN_S:g} s"
            pause_s = min(LAST_BACK_OFF_S, FIRST_BACK_OFF_S * (1 << min(self._failures, 10)))
            self._failures += 1
            log.warning("credentials_not_renewed", cause=self._failure, again_in_s=pause_s)
        else:
            pause_s = self._take(fetched)
        self._next_fetch_at = clock() + pause_s
        return pause_s

    def _fetch_good(self) -> Fetched:
        fetched = self._fetch()
        if not self._is_good(fetched):
            raise NoCredentials(f"{fetched.source} gave expired ones")
        return fetched

    def _take(self, fetched: Fetched) -> float:
        self._current, self._failure, self._failures = fetched, "", 0
        if fetched.expires_at_ms is None:
            return LOOK_EVERY_S
        left_s = (fetched.expires_at_ms - self._now_ms()) / 1000
        log.info("credentials_renewed", source=fetched.source, expires_in_s=int(left_s))
        # A metadata service gives the same credentials again until shortly before their end: then half of what is
        # left is waited, and half of that.
        return max(FIRST_BACK_OFF_S, left_s - min(RENEW_AHEAD_S, left_s / 2))

    async def _until_due(self, pause_s: float) -> None:
        """Wait, in steps: while a machine sleeps its credentials age, and ``loop.time()`` does not."""
        due_ms = self._now_ms() + pause_s * 1000
        while (left_s := (due_ms - self._now_ms()) / 1000) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_EVERY_S)):
                    await self._invalidated.wait()
                return

    def _is_good(self, fetched: Fetched) -> bool:
        return fetched.expires_at_ms is None or self._now_ms() + LEAST_LEFT_MS < fetched.expires_at_ms
