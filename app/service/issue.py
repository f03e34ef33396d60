"""Issuing a token: from a caller's proof to an MQTT password (``POST /oauth/token``)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from app.cloud.errors import RETRIED, sentence
from app.errors import InvalidRequest, InvalidScope, TooManyRequests, Unavailable
from app.model.actors import Actor
from app.model.calls import CallRank
from app.model.devices import Device
from app.model.grants import Grant, MalformedScope, parse_scope
from app.model.lifetimes import MAX_LIFETIME_S, MIN_LIFETIME_S, fresh_ms
from app.model.mqtt_password import build_password
from app.model.policy import Policy, Role
from app.model.templates import NoGrant
from app.service.applications import Applications
from app.service.authenticate import Authenticator, ClientProof, VerifiedClient
from app.service.client_credentials import ClientCredentials
from app.service.request_limiter import RequestLimiter
from app.service.retry_promises import RetryPromises
from app.store.devices import CACHED_DEVICES
from app.store.records import ApplicationLease, CloudTokenOfType, RequestResult, StoredToken, TokenRequest
from app.store.redis_keys import Handle
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens

MAX_ANSWER_AGE_S: Final = 2.0
"""An older answer of Redis (this process was paused) is not used: a revoke may have been answered since."""

ANSWERING_S: Final = 0.5
"""Kept back from the caller's deadline for the answer itself."""

FALLBACK_MS: Final = 30_000
"""A live token with this much left is handed out when no new one can be had."""

FALLBACK_PATIENCE_S: Final = 2.0
"""A caller for whom there is such a token waits no longer than this for a new one."""

_PASSING: Final = frozenset(kind.value for kind in RETRIED)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as its own device gets it."""

    handle: Handle
    client_id: str
    scope: str
    expires_in_s: int
    expires_at_ms: int
    cloud_tokens: tuple[CloudTokenOfType, ...]

    @property
    def password(self) -> str:
        """The password for MQTT CONNECT, which is the access token too."""
        return build_password((each.type, each.token) for each in self.cloud_tokens)


@dataclass(slots=True)
class _Answer:
    """What Redis answered to a request that was sent at ``asked_at`` (loop time, in seconds)."""

    token_request: TokenRequest
    grant: Grant
    result: RequestResult
    asked_at: float


class Issuer:
    """Issues tokens to devices."""

    def __init__(
        self,
        authenticator: Authenticator,
        policy: Callable[[], Policy],
        tokens: Tokens,
        applications: Applications,
        *,
        promises: RetryPromises,
        limiter: RequestLimiter,
    ) -> None:
        """``policy`` returns the policy in force now; ``limiter`` counts each request that is passed to ``issue``."""
        self._authenticator = authenticator
        self._policy = policy
        self._tokens = tokens
        self._applications = applications
        self._promises = promises
        self._limiter = limiter

    async def issue(
        self,
        credentials: ClientCredentials,
        scope: str | None,
        expires_in: str | None,
        *,
        address: str,
        deadline: float,
        request_id: str = "",
    ) -> IssuedToken:
        """Hand out the grant's live token, or a new one once the cloud has made it.

        ``address`` is the caller's IP address, or empty. ``deadline`` is loop time in seconds, and ``request_id`` is
        for the audit. Raises the refusals of ``Authenticator.authenticate``, ``InvalidScope``, ``InvalidRequest``,
        ``TooManyRequests`` and ``Unavailable``.
        """
        started_at, last_at = asyncio.get_running_loop().time(), deadline - ANSWERING_S
        proof, ask = ClientProof(credentials, address, last_at), partial(self._ask, scope, expires_in)
        while True:
            answer = await self._authenticator.authenticate(proof, ask)
            if _is_outdated(answer, is_last=answer.asked_at >= last_at):
                continue
            status, application = answer.result.status, answer.result.application
            if status == "apply":
                self._start_application(answer, proof, request_id)
            wait_until = min(last_at, self._patient_until(answer, started_at))
            if status not in {"apply", "wait"} or answer.asked_at >= wait_until:
                return await self._conclude(answer)
            with self._limiter.suspended():
                await self._applications.wait_until_done(answer.token_request, application, wait_until)

    def _patient_until(self, answer: _Answer, started_at: float) -> float:
        """Return until when a caller waits for a new token (loop time, in seconds).

        One that has a live token waits a moment, and not at all where a new one will take longer than that.
        """
        if answer.result.token is None:
            return math.inf
        is_slow = self._applications.takes_longer(answer.grant, rank=CallRank.RENEWAL, than_s=FALLBACK_PATIENCE_S)
        return started_at if is_slow else started_at + FALLBACK_PATIENCE_S

    async def _ask(self, scope: str | None, expires_in: str | None, client: VerifiedClient) -> _Answer:
        """Check what is asked for, and have one script use the proof up and look for the token.

        Raises ``AssertionRefused``, ``InvalidScope``, ``InvalidRequest`` and ``Unavailable``.
        """
        try:
            token_request, grant = _check_request(self._policy(), client.device, scope=scope, expires_in=expires_in)
        except (InvalidScope, InvalidRequest):
            # A refusal uses an assertion up as any answer does, or a thief could try with it what the policy allows.
            # If the record was stale the script says so, and the request is checked again under a fresh one.
            await self._tokens.use_assertion(
                client.device, request=client.request, jti=client.jti, used_until_ms=client.used_until_ms
            )
            raise
        # If the queue for permits is too long, do not apply: the application would be refused there. Redis is asked
        # all the same, for only what would apply is refused, and it knows whether that is a renewal.
        refuse_as = self._applications.refusals(grant)
        asked_at = asyncio.get_running_loop().time()
        result = await self._tokens.request(
            token_request,
            request=client.request,
            jti=client.jti,
            used_until_ms=client.used_until_ms,
            refuse_as=refuse_as,
        )
        return _Answer(token_request, grant, result, asked_at)

    def _start_application(self, answer: _Answer, proof: ClientProof, request_id: str) -> None:
        lease = ApplicationLease(answer.token_request, answer.result.application, proof.request)
        device = Actor(f"device:{answer.token_request.device.client_id}", request_id)
        rank = CallRank.RENEWAL if answer.result.token else CallRank.FIRST
        self._applications.start(lease, answer.grant, rank=rank, actor=device)

    async def _conclude(self, answer: _Answer) -> IssuedToken:
        """Hand out the token that was found, fresh or not; without one raise the refusal that says why."""
        result = answer.result
        if result.token is not None:
            return self._open(answer.token_request, result.now_ms, result.token)
        if result.status == "limited":
            raise TooManyRequests(
                "this device has reached its limit of new tokens: keep and reuse the ones it got",
                cause="device limit",
                retry_after_s=_whole_seconds(result.wait_ms / 1000),
            )
        if result.status == "failed":
            why, least_s = f"no token for now: {sentence(result.failure)}", result.wait_ms / 1000
        else:
            why, least_s = "the token is still being applied for: ask again", 0.0
        raise Unavailable(why, retry_after_s=_whole_seconds(max(least_s, await self._promised_s(answer))))

    async def _promised_s(self, answer: _Answer) -> float:
        """Return in how many seconds the device may come back for its calls to the cloud, if calling again can help."""
        if answer.result.status == "failed" and answer.result.failure not in _PASSING:
            return 0.0
        client_id = answer.token_request.device.client_id
        return await self._promises.next_s(client_id, len(answer.grant.split()))

    def _open(self, token_request: TokenRequest, now_ms: int, token: StoredToken) -> IssuedToken:
        client_id = token_request.device.client_id
        try:
            cloud_tokens = self._tokens.open(token.sealed, client_id, token.handle)
        except CannotOpen as error:
            raise Unavailable("the server cannot open this token", cause=str(error), retry_after_s=60) from error
        return IssuedToken(
            handle=token.handle,
            client_id=client_id,
            scope=token_request.scope,
            expires_in_s=(token.expires_at_ms - now_ms) // 1000,
            expires_at_ms=token.expires_at_ms,
            cloud_tokens=cloud_tokens,
        )


def _is_outdated(answer: _Answer, *, is_last: bool) -> bool:
    """Return whether Redis must be asked again: a revoke may have been answered since.

    Raises ``Unavailable`` if this was the last time that there was time to ask.
    """
    if asyncio.get_running_loop().time() - answer.asked_at <= MAX_ANSWER_AGE_S:
        return False
    if is_last:
        raise Unavailable("the server was held up: ask again", cause="paused while Redis answered")
    return True


def _check_request(
    policy: Policy, device: Device, *, scope: str | None, expires_in: str | None
) -> tuple[TokenRequest, Grant]:
    """Check what is asked for against the policy. Raises ``InvalidScope`` and ``InvalidRequest``."""
    if scope is None and expires_in is None:
        return _default_request(policy, device)
    role, allowed = _allowed(policy, device)
    grant = allowed if scope is None else _narrowed(role, allowed, scope)
    return _token_request(device, role, grant, life_s=_parse_life(expires_in, role.default_lifetime_s))


@lru_cache(maxsize=CACHED_DEVICES)
def _default_request(policy: Policy, device: Device) -> tuple[TokenRequest, Grant]:
    """Return the request for all that the device's role permits, which most devices send."""
    role, allowed = _allowed(policy, device)
    return _token_request(device, role, allowed, life_s=role.default_lifetime_s)


def _token_request(device: Device, role: Role, grant: Grant, *, life_s: int) -> tuple[TokenRequest, Grant]:
    if not grant:
        raise InvalidScope(f"role {role.name} permits nothing")
    life_s = min(life_s, role.max_lifetime_s)
    token_request = TokenRequest(
        device=device,
        role=role.name,
        scope=grant.scope,
        life_s=life_s,
        fresh_ms=fresh_ms(life_s),
        spare_ms=FALLBACK_MS,
    )
    return token_request, grant


@lru_cache(maxsize=CACHED_DEVICES)
def _allowed(policy: Policy, device: Device) -> tuple[Role, Grant]:
    """Return the device's role and all it permits; computed again for another policy or another record."""
    role = policy.role_for(device.client_id, device.role or None)
    if role is None:
        raise InvalidScope(
            f"no role of the policy fits {device.client_id}: name one in its registration, or add a match",
            cause=f"role {device.role!r} is not in the policy" if device.role else "no match",
        )
    try:
        return role, role.grant_for(device.client_id, device.attributes)
    except NoGrant as error:
        raise InvalidScope(f"role {role.name} gives {device.client_id} nothing: {error}") from None


def _narrowed(role: Role, allowed: Grant, scope: str) -> Grant:
    """Read the scope that was asked for, which must be within what is allowed."""
    try:
        grant = parse_scope(scope)
    except MalformedScope as error:
        raise InvalidScope(str(error)) from None
    if (permission := allowed.first_uncovered(grant)) is not None:
        raise InvalidScope(f"{permission} is outside the policy: role {role.name} does not cover it")
    return grant


def _parse_life(text: str | None, default_s: int) -> int:
    """Return the life that was asked for, in seconds. Raises ``InvalidRequest``."""
    if text is None:
        return default_s
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIFETIME_S))
    if not is_number or not MIN_LIFETIME_S <= int(text) <= MAX_LIFETIME_S:
        raise InvalidRequest(f"expires_in must be whole seconds, {MIN_LIFETIME_S} to {MAX_LIFETIME_S}")
    return int(text)


def _whole_seconds(seconds: float) -> int:
    """Return seconds rounded up: one at least."""
    return max(1, math.ceil(seconds))
