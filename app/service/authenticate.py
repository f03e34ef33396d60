"""Client authentication: verifying a proof and using it up are one step, for token, introspect and revoke alike.

The script that acts on a proof also uses it up, so that of two requests with one assertion only one gets anything.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from app.errors import InvalidClient, Unavailable
from app.loop_share import LoopShare
from app.model.devices import Algorithm, Device
from app.service import verification_keys
from app.service.client_credentials import ClientCredentials, NotProven, claimed_client_id
from app.service.failure_limits import BUSY_S, FailureLimits, counters_of
from app.service.request_limiter import RequestLimiter
from app.store.clock import RedisClock
from app.store.devices import Devices, Registered
from app.store.failures import FailureCounter
from app.store.records import AssertionRefused
from app.store.retry import retry_until
from app.store.sealing import CannotOpen

RESEND_WITHIN_S: Final = 0.5
"""A Redis that only restarts is waited for; one that is away for longer is reported to the caller."""

SHARE: Final = 0.2
"""The share of the event loop in which strangers' proofs are checked, and another one of this size for known client IDs
beyond a limit. So neither delays the other, and both together leave most of the loop to all others."""

BURST_S: Final = 0.005
"""Processor time that failures may take at once after a calm moment."""

_GENERIC: Final = "client authentication failed: the client is unknown or disabled, or its key or method is another"

_Result = TypeVar("_Result")


class VerifiedClient(NamedTuple):
    """A caller who proved to be ``device`` as its record of that epoch says; the proof is not used up yet.

    ``jti`` names the assertion; it must stay used until ``used_until_ms`` in Unix ms (0: there is nothing to use up).
    ``request`` is a random value of the request: a script that is sent twice with it has used the assertion once.
    """

    device: Device
    request: str
    jti: str
    used_until_ms: int


@dataclass
class ClientProof:
    """The credentials of one request, and the client that they were last verified to come from.

    ``address`` is the IP address that it comes from, or empty; ``deadline`` is loop time in seconds.
    """

    credentials: ClientCredentials
    address: str
    deadline: float
    request: str = field(default_factory=partial(secrets.token_urlsafe, 16))
    client: VerifiedClient | None = None

    @cached_property
    def counters(self) -> Sequence[FailureCounter]:
        """By what a failure is counted."""
        return counters_of(client_id=claimed_client_id(self.credentials), address=self.address)


class _UnknownClient(NotProven):
    """The client ID is not registered, and nothing was checked yet."""


class _CandidateKey(NamedTuple):
    """A key to check a proof against, valid until ``until_ms`` (Unix ms). A decoy has no device: no proof fits it."""

    key: verification_keys.VerificationKey
    device: Device | None = None
    until_ms: int = sys.maxsize


class Authenticator:
    """Verifies credentials against the registry."""

    def __init__(
        self, devices: Devices, clock: RedisClock, issuer: str, failures: FailureLimits, *, limiter: RequestLimiter
    ) -> None:
        """``issuer`` is the only audience an assertion may have; ``failures`` limits proofs that no key fits.

        ``limiter`` counts each request whose proof is verified.
        """
        self._devices = devices
        self._clock = clock
        self._issuer = issuer
        self._failures = failures
        self._limiter = limiter
        self._strangers = LoopShare(SHARE, burst_s=BURST_S)
        self._attacked = LoopShare(SHARE, burst_s=BURST_S)

    async def authenticate(self, proof: ClientProof, use: Callable[[VerifiedClient], Awaitable[_Result]]) -> _Result:
        """Verify ``proof``, have ``use`` run the script that uses it up, and return what ``use`` returns.

        ``use`` is repeated when an answer of Redis is lost. Where its script finds the cached record to be stale, the
        proof is verified again under a fresh one, once. A later step of the same request is not verified again.

        Raises ``InvalidClient``, ``TooManyFailures``, ``InvalidRequest``, ``Unavailable``, and what ``use`` raises.
        """
        proof.client = proof.client or await self._verify(proof, may_be_cached=True)
        for is_first in (True, False):
            try:
                return await retry_until(partial(use, proof.client), within_s=RESEND_WITHIN_S)
            except AssertionRefused as refusal:
                _refuse_if_spent(refusal)
            if is_first:
                proof.client = await self._verify(proof, may_be_cached=False)
        raise Unavailable("this device's registration is being changed: ask again")

    async def _verify(self, proof: ClientProof, *, may_be_cached: bool) -> VerifiedClient:
        """Verify a proof. One that proves nothing is refused within the strangers' share, and counted.

        An unknown client ID and a known one with a wrong key cost two checks, a read of Redis, a turn and a count each,
        so that neither the answer nor its time distinguishes them. Only a record that was just changed costs more.
        """
        try:
            return await self._prove(proof, may_be_cached=may_be_cached)
        except NotProven as error:
            refusal = error
        # What waits to be refused must not keep others from being served.
        with self._failures.place(), self._limiter.suspended():
            return await _until(proof.deadline, self._strangers.run(partial(self._refuse, proof, refusal)))

    async def _prove(self, proof: ClientProof, *, may_be_cached: bool) -> VerifiedClient:
        """Verify under the cached record; where that refuses, under a fresh one if it is another.

        So a rotated key or an enabled device counts at once. Raises ``NotProven``, and ``InvalidClient`` for what the
        right key signed and should not have.
        """
        cached = self._devices.cached_device(proof.credentials.claim.client_id) if may_be_cached else None
        if cached is None:
            fresh = await self._read_record(proof)
        else:
            try:
                return await self._check_known(proof, cached)
            except InvalidClient:
                fresh = await self._read_record(proof)
                if fresh and fresh.device.epoch == cached.device.epoch:
                    raise
        if fresh is None:
            raise _UnknownClient(_GENERIC)
        return await self._check_known(proof, fresh)

    async def _check_known(self, proof: ClientProof, registered: Registered) -> VerifiedClient:
        """Check the proof of a registered client at once, or within a share if it is probably an attacker's."""
        if not self._failures.full_ms(proof.counters):
            return self._check(proof, registered)

        async def check() -> VerifiedClient:
            return self._check(proof, registered)

        with self._limiter.suspended():
            return await _until(proof.deadline, self._attacked.run(check))

    async def _refuse(self, proof: ClientProof, refusal: NotProven) -> NoReturn:
        """Raise ``NotProven``, or ``TooManyFailures`` beyond a limit."""
        if isinstance(refusal, _UnknownClient):
            # A known client's keys were checked already.
            try:
                self._check(proof, None)
            except NotProven as error:
                refusal = error
        await self._failures.refuse(proof.counters, refusal)

    async def _read_record(self, proof: ClientProof) -> Registered | None:
        try:
            return await self._devices.read_device(proof.credentials.claim.client_id)
        except CannotOpen as error:
            # Not the device's fault, so no 401: it would give up for good.
            raise Unavailable("the server cannot open this device's key", cause=str(error), retry_after_s=60) from error

    def _check(self, proof: ClientProof, registered: Registered | None) -> VerifiedClient:
        """Check a proof against the device's key, then against the one before it.

        A refused caller always costs two checks, so that neither the answer nor its time shows an outsider which client
        IDs exist, are disabled, or got a new key recently.
        """
        credentials, now_ms = proof.credentials, self._clock.now_ms()
        for candidate in _candidate_keys(registered, credentials.claim.algorithm, now_ms):
            single_use = credentials.proven_by(candidate.key, issuer=self._issuer, now_ms=now_ms)
            if single_use is not None and candidate.device:
                # No longer than its key is valid: so the scripts, too, refuse by Redis's clock what an old key signed.
                used_until_ms = min(single_use.until_ms, candidate.until_ms)
                return VerifiedClient(candidate.device, proof.request, single_use.jti, used_until_ms)
        raise NotProven(_GENERIC, cause=_why(registered))


async def _until(deadline: float, check: Coroutine[Any, Any, VerifiedClient]) -> VerifiedClient:
    """Wait for a check. Raises ``Unavailable`` if its turn has not come by ``deadline``, loop time in seconds.

    Not ``TooManyFailures``: a proof that was not checked may be right. It is the same for strangers, so that the answer
    does not show which client IDs exist.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await check
    except TimeoutError:
        raise Unavailable(
            "the server is busy: ask again", cause="its turn did not come in time", retry_after_s=BUSY_S
        ) from None


def _candidate_keys(
    registered: Registered | None, algorithm: Algorithm, now_ms: int
) -> tuple[_CandidateKey, _CandidateKey]:
    """Return the device's key and the one before it; a decoy replaces a key that this proof must not fit.

    An unknown, disabled or other-algorithm caller gets two decoys, and so does the same work as one with a wrong key.
    """
    current = before = _decoy(algorithm)
    if registered is None or registered.device.disabled:
        return current, before
    device, previous = registered.device, registered.previous
    if device.algorithm is algorithm:
        current = _CandidateKey(verification_keys.prepared(algorithm, registered.key), device)
    # The record may have been cached while the previous key was still valid.
    if previous and previous.algorithm is algorithm and previous.until_ms > now_ms:
        before = _CandidateKey(verification_keys.prepared(algorithm, previous.key), device, previous.until_ms)
    return current, before


@lru_cache
def _decoy(algorithm: Algorithm) -> _CandidateKey:
    return _CandidateKey(verification_keys.decoy(algorithm))


def _refuse_if_spent(refusal: AssertionRefused) -> None:
    """Raise ``InvalidClient`` if the script said that the assertion was used or has expired."""
    if refusal.reason == "used":
        raise InvalidClient("the assertion was already used: sign a new one", cause="jti replayed") from None
    if refusal.reason == "expired":
        raise InvalidClient(
            "the assertion expired: sign a new one, by the clock in X-Timestamp", cause="by Redis's clock"
        ) from None


def _why(registered: Registered | None) -> str:
    if registered is None:
        return "unknown"
    if registered.device.disabled:
        return "disabled"
    return "another key, or another algorithm or method than this device's"
