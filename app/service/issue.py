"""Issuing a token: from a caller's proof to an MQTT password (``POST /oauth/token``)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

from app.cloud.errors import sentence
from app.errors import InvalidRequest, InvalidScope, TooManyRequests, Unavailable
from app.model.actors import Actor
from app.model.devices import Device
from app.model.grants import Grant, MalformedScope, parse_scope
from app.model.lifetimes import MAX_LIFETIME_S, MIN_LIFETIME_S, fresh_ms
from app.model.mqtt_password import build_password
from app.model.policy import Policy, Role
from app.model.templates import NoGrant
from app.service.applications import Applications
from app.service.authenticate import Authenticator, ClientProof, VerifiedClient
from app.service.client_credentials import ClientCredentials
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

MAX_CONCURRENT_IN_STORM: Final = 32
"""How many requests an instance works on at once while more new tokens are asked for than can be had. Requests that
only wait for the cloud are not counted. With thousands at once, permits would come too late to be of use."""


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
        self, authenticator: Authenticator, policy: Callable[[], Policy], tokens: Tokens, applications: Applications
    ) -> None:
        """``policy`` returns the policy in force now."""
        self._authenticator = authenticator
        self._policy = policy
        self._tokens = tokens
        self._applications = applications
        self._concurrent = 0

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
        self._refuse_in_storm()
        proof = ClientProof(credentials, address, deadline - ANSWERING_S)
        ask = partial(self._ask, scope, expires_in)
        started_at = asyncio.get_running_loop().time()
        self._concurrent += 1
        try:
            while True:
                answer = await self._authenticator.authenticate(proof, ask)
                wait_until = deadline - ANSWERING_S
                if answer.result.token:
                    wait_until = min(wait_until, started_at + FALLBACK_PATIENCE_S)
                may_wait = answer.asked_at < wait_until
                if _is_outdated(answer, may_wait=may_wait):
                    continue
                if answer.result.status == "apply":
                    self._start_application(answer, proof, request_id)
                if answer.result.status not in {"apply", "wait"} or not may_wait:
                    return self._conclude(answer)
                await self._wait(answer, wait_until)
        finally:
            self._concurrent -= 1

    def _refuse_in_storm(self) -> None:
        """Refuse without reading the request if it would only delay the others."""
        if self._concurrent >= MAX_CONCURRENT_IN_STORM and (full := self._applications.refusal()):
            raise Unavailable(
                f"no token for now: {sentence(full.kind.value)}",
                cause=f"{self._concurrent} concurrent requests; {full}",
                retry_after_s=math.ceil(full.retry_after_s),
            )

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
        # If the queue for permits is too long, do not apply: the application would be refused there.
        full = self._applications.refusal()
        asked_at = asyncio.get_running_loop().time()
        result = await self._tokens.request(
            token_request,
            request=client.request,
            jti=client.jti,
            used_until_ms=client.used_until_ms,
            may_apply=full is None,
        )
        if full and result.status == "busy":
            result = replace(result, status="failed", failure=full.kind.value, wait_ms=int(full.retry_after_s * 1000))
        return _Answer(token_request, grant, result, asked_at)

    def _start_application(self, answer: _Answer, proof: ClientProof, request_id: str) -> None:
        lease = ApplicationLease(answer.token_request, answer.result.application, proof.request)
        device = Actor(f"device:{answer.token_request.device.client_id}", request_id)
        self._applications.start(lease, answer.grant, actor=device)

    async def _wait(self, answer: _Answer, until: float) -> None:
        """Wait for the application that is under way, not counted among the concurrent requests."""
        self._concurrent -= 1
        try:
            await self._applications.wait_until_done(answer.token_request, answer.result.application, until)
        finally:
            self._concurrent += 1

    def _conclude(self, answer: _Answer) -> IssuedToken:
        """Hand out the token that was found, fresh or not; without one raise the refusal that says why."""
        result = answer.result
        if result.token is not None:
            return self._open(answer.token_request, result.now_ms, result.token)
        if result.status == "limited":
            raise TooManyRequests(
                "this device has reached its limit of new tokens: keep and reuse the ones it got",
                cause="device limit",
                retry_after_s=_whole_seconds(result.wait_ms),
            )
        if result.status == "failed":
            raise Unavailable(
                f"no token for now: {sentence(result.failure)}", retry_after_s=_whole_seconds(result.wait_ms)
            )
        raise Unavailable("the token is still being applied for: ask again")

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


def _is_outdated(answer: _Answer, *, may_wait: bool) -> bool:
    """Return whether Redis must be asked again: a revoke may have been answered since.

    Raises ``Unavailable`` if there is no time left to ask.
    """
    if asyncio.get_running_loop().time() - answer.asked_at <= MAX_ANSWER_AGE_S:
        return False
    if not may_wait:
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


def _whole_seconds(wait_ms: int) -> int:
    """Return ms as seconds, rounded up: one at least."""
    return max(1, -(-wait_ms // 1000))
