"""Issuing a token: from a caller's proof to an MQTT password (PRODUCT, ``POST /oauth/token``)."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

from app.cloud.errors import sentence
from app.errors import InvalidRequest, InvalidScope, TooManyRequests, Unavailable
from app.model.devices import Device
from app.model.grants import Grant, MalformedScope, parse_scope
from app.model.policy import Policy, Role
from app.model.templates import NoGrant
from app.rpc.catalog import MAX_TOKEN_LIFE_S
from app.service.applications import Applications
from app.service.authenticate import Authenticator, ClientCredentials, VerifiedClient, refuse_used
from app.store.connection import retry_until
from app.store.devices import CACHED_DEVICES
from app.store.records import (
    ApplicationLease,
    AssertionRefusal,
    CloudTokenOfType,
    RequestResult,
    StoredToken,
    TokenRequest,
)
from app.store.redis_keys import Handle
from app.store.sealing import CannotOpen
from app.store.tokens import Tokens

MIN_LIFE_S: Final = 65
"""The cloud's own 60 with a margin for the way there."""

MAX_ANSWER_AGE_S: Final = 2.0
"""An answer of Redis that lay longer (this process was paused) may have been overtaken by a revoke."""

ANSWERING_S: Final = 0.5
"""Kept back from the caller's deadline for the answer itself."""

RESEND_WITHIN_S: Final = 0.5
"""A Redis that only restarts is waited for; one that is away for longer is told to the caller."""

SPARE_PATIENCE_S: Final = 2.0
"""Who could be given a token that is merely no longer fresh does not wait longer than this for a new one."""

SPARE_MS: Final = 30_000
"""A live token with this much left is handed out when no new one can be had."""

MAX_STALE_READS: Final = 3

MAX_IN_HAND_IN_STORM: Final = 32
"""While more new tokens are asked for than can be had, an instance works on so many requests at once; who only waits
for the cloud is not counted. With thousands in hand its permits would come too late to be of use."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as its own device gets it."""

    handle: Handle
    client_id: str
    scope: str
    expires_in_s: int
    expires_at_ms: int
    cloud_tokens: tuple[CloudTokenOfType, ...]


class Issuer:
    """Issues tokens to devices."""

    def __init__(
        self, authenticator: Authenticator, policy: Callable[[], Policy], tokens: Tokens, applications: Applications
    ) -> None:
        """``policy`` returns the policy in force now."""
        self._authenticator = authenticator
        self._policy = policy
        self._tokens = tokens
        self._flights = applications
        self._in_hand = 0

    async def issue(
        self, credentials: ClientCredentials, scope: str | None, expires_in: str | None, *, deadline: float
    ) -> IssuedToken:
        """Hand out the grant's live token, or a new one once the cloud has made it (DESIGN, steps 2 to 8).

        ``deadline`` is loop time in seconds. Raises the refusals of ``Authenticator.verify``, ``InvalidScope``,
        ``InvalidRequest``, ``TooManyRequests`` and ``Unavailable``.
        """
        if self._in_hand >= MAX_IN_HAND_IN_STORM and (full := self._flights.refusal()):
            raise Unavailable(
                f"no token for now: {sentence(full.kind.value)}",
                cause=f"{self._in_hand} requests in hand; {full}",
                retry_after_s=math.ceil(full.retry_after_s),
            )
        self._in_hand += 1
        try:
            return await self._issue(credentials, scope, expires_in, deadline=deadline)
        finally:
            self._in_hand -= 1

    async def _issue(
        self, credentials: ClientCredentials, scope: str | None, expires_in: str | None, *, deadline: float
    ) -> IssuedToken:
        loop = asyncio.get_running_loop()
        started = loop.time()
        request = secrets.token_urlsafe(16)
        proven = await self._authenticator.verify(credentials)
        stale_reads = 0
        while True:
            asked_at = loop.time()
            asked = await self._ask(proven, request, scope, expires_in)
            if isinstance(asked, str):
                # Changed since it was cached: read again, verify again under it. Once is enough, unless it is being
                # changed again and again.
                refuse_used(asked)
                stale_reads += 1
                if stale_reads > MAX_STALE_READS:
                    raise Unavailable("this device's registration is being changed; ask again")
                proven = await self._authenticator.verify_fresh(credentials)
                continue
            grant, wanted, answer = asked
            patience_ends = min(deadline - ANSWERING_S, started + SPARE_PATIENCE_S if answer.token else math.inf)
            if loop.time() - asked_at > MAX_ANSWER_AGE_S:
                # This process was paused with the answer in hand: a revoke may have overtaken it.
                if asked_at >= patience_ends:
                    raise Unavailable("the server was held up; ask again", cause="paused with an answer in hand")
                continue
            if answer.status == "apply":
                self._flights.start(ApplicationLease(wanted, answer.application, request), grant)
            if answer.status not in {"apply", "wait"} or asked_at >= patience_ends:
                return self._conclude(wanted, answer)
            self._in_hand -= 1
            try:
                await self._flights.wait_until_done(wanted, answer.application, patience_ends)
            finally:
                self._in_hand += 1

    async def _ask(
        self, proven: VerifiedClient, request: str, scope: str | None, expires_in: str | None
    ) -> tuple[Grant, TokenRequest, RequestResult] | AssertionRefusal:
        """Ask Redis, and once more if its answer was lost: the scripts know a command that is sent again."""
        try:
            grant, wanted = self._want(proven, scope, expires_in)
        except (InvalidScope, InvalidRequest):
            # Judged under a record that may be stale; and a refusal uses an assertion up as any answer does, or a thief
            # could try with it what the policy allows.
            use = partial(self._tokens.use, proven.device, request, proven.jti, proven.used_until_ms)
            status = await retry_until(use, within_s=RESEND_WITHIN_S)
            if status == "ok":
                raise
            return status
        # With the line for the quota too long no flight is begun, only to be refused there and cleared away.
        full = self._flights.refusal()
        ask = partial(self._tokens.request, wanted, request, proven.jti, proven.used_until_ms, may_apply=full is None)
        answer = await retry_until(ask, within_s=RESEND_WITHIN_S)
        if isinstance(answer, str):
            return answer
        if full and answer.status == "busy":
            answer = replace(answer, status="failed", failure=full.kind.value, wait_ms=int(full.retry_after_s * 1000))
        return grant, wanted, answer

    def _want(self, proven: VerifiedClient, scope: str | None, expires_in: str | None) -> tuple[Grant, TokenRequest]:
        """Check what is asked for against the policy in force now."""
        device = proven.device
        role, allowed = _allowed(self._policy(), device)
        grant = allowed if scope is None else _narrowed(role, allowed, scope)
        if not grant:
            raise InvalidScope(f"role {role.name} permits nothing")
        life_s = min(_parse_life(expires_in, role.default_lifetime_s), role.max_lifetime_s)
        return grant, TokenRequest(
            device=device,
            role=role.name,
            scope=grant.scope,
            life_s=life_s,
            fresh_ms=fresh_ms(life_s),
            spare_ms=SPARE_MS,
        )

    def _conclude(self, wanted: TokenRequest, answer: RequestResult) -> IssuedToken:
        """Hand out what there is: a fresh token, or rather one that is no longer fresh than none."""
        if answer.token is not None:
            return self._open(wanted, answer.now_ms, answer.token)
        if answer.status == "limited":
            raise TooManyRequests(
                "this device has had its share of tokens: keep and reuse the ones it got",
                cause="device limit",
                retry_after_s=_up(answer.wait_ms),
            )
        if answer.status == "failed":
            raise Unavailable(f"no token for now: {sentence(answer.failure)}", retry_after_s=_up(answer.wait_ms))
        raise Unavailable("the token is still being applied for: ask again")

    def _open(self, wanted: TokenRequest, now_ms: int, token: StoredToken) -> IssuedToken:
        try:
            cloud_tokens = self._tokens.open(token.sealed, wanted.device.client_id, token.handle)
        except CannotOpen as error:
            raise Unavailable("the server cannot open this token", cause=str(error), retry_after_s=60) from error
        return IssuedToken(
            handle=token.handle,
            client_id=wanted.device.client_id,
            scope=wanted.scope,
            expires_in_s=(token.expires_at_ms - now_ms) // 1000,
            expires_at_ms=token.expires_at_ms,
            cloud_tokens=cloud_tokens,
        )


def fresh_ms(life_s: int) -> int:
    """Return the remaining life, in ms, above which a token of this life is handed out again.

    It is max(life ÷ 4, min(360 s, life ÷ 2)): time enough to use it, and to apply anew before it ends.
    """
    return max(life_s * 250, min(360_000, life_s * 500))


@lru_cache(maxsize=CACHED_DEVICES)
def _allowed(policy: Policy, device: Device) -> tuple[Role, Grant]:
    """Return the device's role and all it permits under this policy; another policy or record is worked out anew."""
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
    """Read the scope that was asked for, which must lie in what is allowed."""
    try:
        grant = parse_scope(scope)
    except MalformedScope as error:
        raise InvalidScope(str(error)) from None
    if (permission := allowed.first_uncovered(grant)) is not None:
        raise InvalidScope(f"{permission} lies outside the policy: role {role.name} does not cover it")
    return grant


def _parse_life(text: str | None, default_s: int) -> int:
    if text is None:
        return default_s
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_TOKEN_LIFE_S)):
        raise InvalidRequest(f"expires_in must be whole seconds, {MIN_LIFE_S} to {MAX_TOKEN_LIFE_S}")
    if not MIN_LIFE_S <= int(text) <= MAX_TOKEN_LIFE_S:
        raise InvalidRequest(f"expires_in must be {MIN_LIFE_S} to {MAX_TOKEN_LIFE_S} seconds")
    return int(text)


def _up(wait_ms: int) -> int:
    return max(1, -(-wait_ms // 1000))
