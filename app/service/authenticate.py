"""Who is calling? Client authentication by assertion (RFC 7523) or shared secret (RFC 6749 section 2.3.1).

The result is *proven*, not yet *used*: the store uses it up in the same step in which it acts on it, so that of two
requests with one assertion only one gets anything.
"""

from __future__ import annotations

import base64
import hmac
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import jwt

from app.errors import InvalidClient, InvalidRequest, Unavailable
from app.model.devices import Algorithm, Device, MalformedClientId, parse_client_id
from app.model.secrets import ClientSecret, Secret
from app.service import verification_keys
from app.store.clock import RedisClock
from app.store.devices import Devices, Registered
from app.store.records import UseStatus
from app.store.sealing import CannotOpen

MAX_ASSERTION_BYTES: Final = 8 * 1024
MAX_ASSERTION_LIFE_S: Final = 300
LEEWAY_S: Final = 60
MAX_JTI_CHARS: Final = 256

_GENERIC: Final = "client authentication failed: the client is unknown or disabled, or its key or method is another"


@dataclass(frozen=True, slots=True)
class Assertion:
    """A signed client assertion, unverified; ``client_id`` is the form's parameter, if there was one."""

    jwt: Secret
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Basic:
    """A client ID and secret from the Authorization header, unverified."""

    client_id: str
    secret: ClientSecret


ClientCredentials = Assertion | Basic


@dataclass(frozen=True, slots=True)
class VerifiedClient:
    """A caller who proved to be ``device`` as its record of that epoch says; the proof is not used up yet.

    ``jti`` names the assertion; it must stay used until ``used_until_ms`` in Unix ms (0: there is none to use up).
    """

    device: Device
    jti: str = ""
    used_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Unverified:
    """What an assertion says of itself, proven by nothing."""

    text: str
    client_id: str
    algorithm: Algorithm


@dataclass(frozen=True, slots=True)
class _CandidateKey:
    """A key to check a proof against, good until ``until_ms`` (Unix ms); without a device a decoy that nothing fits."""

    key: verification_keys.VerificationKey
    device: Device | None = None
    until_ms: int = sys.maxsize


class Authenticator:
    """Verifies credentials against the registry."""

    def __init__(self, devices: Devices, clock: RedisClock, issuer: str) -> None:
        """``issuer`` is the only audience an assertion may have."""
        self._devices = devices
        self._clock = clock
        self._issuer = issuer

    async def verify(self, credentials: ClientCredentials) -> VerifiedClient:
        """Verify under the cached record; where that refuses, under a fresh one if it is another.

        So a rotated key or an enabled device counts at once. Raises ``InvalidClient``, ``InvalidRequest``,
        ``Unavailable``.
        """
        claimed = _read(credentials)
        cached = self._devices.cached(claimed.client_id)
        if cached is None:
            return await self._verify_fresh(claimed)
        try:
            return self._check(claimed, cached)
        except InvalidClient:
            # An unknown client ID, and a known one with a wrong key, cost one check and one look into Redis each, so
            # the time of the answer does not tell them apart. Only a record just changed costs a second check.
            fresh = await self._read_fresh(claimed)
            if fresh and fresh.device.epoch == cached.device.epoch:
                raise
        return self._check(claimed, fresh)

    async def verify_fresh(self, credentials: ClientCredentials) -> VerifiedClient:
        """Verify under a record read now: a script found the cached one to be stale. Raises as ``verify``."""
        return await self._verify_fresh(_read(credentials))

    async def _verify_fresh(self, claimed: _Unverified | Basic) -> VerifiedClient:
        return self._check(claimed, await self._read_fresh(claimed))

    async def _read_fresh(self, claimed: _Unverified | Basic) -> Registered | None:
        try:
            return await self._devices.read(claimed.client_id)
        except CannotOpen as error:
            # Not the device's fault, so no 401: it would give up for good.
            raise Unavailable("the server cannot open this device's key", cause=str(error), retry_after_s=60) from error

    def _check(self, claimed: _Unverified | Basic, registered: Registered | None) -> VerifiedClient:
        """Check a proof against the device's key, then against the one before it.

        Unknown, disabled, other-algorithm and wrong-key callers take one path through two checks, so that neither the
        answer nor its time tells an outsider which client IDs exist, or which were re-keyed of late.
        """
        if isinstance(claimed, Basic):
            for pin in _candidate_keys(registered, Algorithm.HS256, self._clock.now_ms()):
                if _is_secret(claimed, pin.key) and pin.device:
                    return VerifiedClient(pin.device)
        else:
            for pin in _candidate_keys(registered, claimed.algorithm, self._clock.now_ms()):
                claims = self._claims(claimed, pin.key)
                if claims is not None and pin.device:
                    return self._check_claims(pin, pin.device, claims)
        raise InvalidClient(_GENERIC, cause=_why(registered))

    def _claims(self, claimed: _Unverified, key: verification_keys.VerificationKey) -> dict[str, Any] | None:
        """Check signature, shape, issuer and audience (RFC 7523 section 3, items 1 to 3 and 9); None: another key's."""
        try:
            return jwt.decode(
                claimed.text,
                key,
                algorithms=[claimed.algorithm.value],  # the record's own: a token cannot choose how it is checked
                audience=self._issuer,
                issuer=claimed.client_id,
                subject=claimed.client_id,
                options={
                    "verify_signature": True,
                    "enforce_minimum_key_length": True,
                    "require": ["iss", "sub", "aud", "exp", "jti"],
                    "verify_iss": True,
                    "verify_sub": True,
                    "verify_aud": True,
                    # An assertion for several servers could be replayed by one of them at the others.
                    "strict_aud": True,
                    "verify_jti": True,
                    # Time is Redis's, not this machine's: checked below.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidSignatureError:
            return None
        except jwt.MissingRequiredClaimError as error:
            raise InvalidClient(f"the assertion has no {error.claim}") from None
        except jwt.InvalidAudienceError:
            raise InvalidClient(f"the assertion's aud must be {self._issuer} and nothing else") from None
        except jwt.PyJWTError as error:
            raise InvalidClient(f"the assertion is refused: {error}") from None

    def _check_claims(self, pin: _CandidateKey, device: Device, claims: dict[str, Any]) -> VerifiedClient:
        """Check the times and the ``jti`` (RFC 7523 section 3, items 4 to 7)."""
        now_s = self._clock.now_ms() / 1000
        expires_s = _instant(claims, "exp")
        if expires_s <= now_s - LEEWAY_S:
            raise InvalidClient(
                f"the assertion expired {int(now_s - expires_s)} s ago: sign a new one, by the clock in X-Timestamp"
            )
        if expires_s > now_s + MAX_ASSERTION_LIFE_S + LEEWAY_S:
            # A stolen assertion is worth as much as its life is long.
            raise InvalidClient(f"the assertion's exp is more than {MAX_ASSERTION_LIFE_S} s ahead: sign a shorter one")
        for name in ("nbf", "iat"):
            if name in claims and _instant(claims, name) > now_s + LEEWAY_S:
                raise InvalidClient(f"the assertion's {name} lies in the future: set the clock by X-Timestamp")
        jti = claims["jti"]
        if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARS:
            raise InvalidClient(f"the assertion's jti must be a text of 1 to {MAX_JTI_CHARS} characters")
        # No longer than its key is good: so the scripts, too, refuse by Redis's clock what a re-keyed device signed.
        used_until_ms = min(int((expires_s + LEEWAY_S) * 1000), pin.until_ms)
        return VerifiedClient(device, jti, used_until_ms)


def claimed_client_id(credentials: ClientCredentials) -> str:
    """Return the client ID that somebody claims to have, proven or not, or nothing if it can be no client ID."""
    try:
        return parse_client_id(_read(credentials).client_id)
    except (InvalidClient, InvalidRequest, MalformedClientId):
        return ""


def refuse_used(status: UseStatus) -> None:
    """Raise ``InvalidClient`` if the store said that the assertion is good no more."""
    if status == "used":
        raise InvalidClient("the assertion was already used: sign a new one", cause="jti replayed")
    if status == "expired":
        raise InvalidClient(
            "the assertion expired: sign a new one, by the clock in X-Timestamp", cause="by Redis's clock"
        )


def _candidate_keys(registered: Registered | None, algorithm: Algorithm, now_ms: int) -> Iterator[_CandidateKey]:
    """Yield two keys to check a proof of this algorithm against, the current one first; in place of none, a decoy."""
    decoy = _CandidateKey(verification_keys.decoy(algorithm))
    held = registered if registered and not registered.device.disabled else None
    if held and held.device.algorithm is algorithm:
        yield _CandidateKey(verification_keys.prepared(algorithm, held.key), held.device)
    else:
        yield decoy
    previous = held.previous if held else None
    # The record may have been cached while this key was still good.
    if held and previous and previous.algorithm is algorithm and previous.until_ms > now_ms:
        yield _CandidateKey(verification_keys.prepared(algorithm, previous.key), held.device, previous.until_ms)
    else:
        yield decoy


def _is_secret(claimed: Basic, key: verification_keys.VerificationKey) -> bool:
    return isinstance(key, bytes) and hmac.compare_digest(claimed.secret.reveal().encode(), key)


def _why(registered: Registered | None) -> str:
    if registered is None:
        return "unknown"
    return (
        "disabled" if registered.device.disabled else "another key, or another algorithm or method than this device's"
    )


def _read(credentials: ClientCredentials) -> _Unverified | Basic:
    """Read whom an assertion claims to come from. Everything said here is true of the text alone."""
    if isinstance(credentials, Basic):
        return credentials
    text = credentials.jwt.reveal()
    if len(text) > MAX_ASSERTION_BYTES:
        raise InvalidRequest(f"client_assertion has more than {MAX_ASSERTION_BYTES} bytes")
    algorithm, subject = _peek(text)
    if not isinstance(algorithm, str) or algorithm not in set(Algorithm):
        # `none` above all: an unsigned assertion proves nothing.
        raise InvalidClient(f"client_assertion must be signed with one of {', '.join(Algorithm)}")
    if not isinstance(subject, str) or not subject or not subject.isascii():
        # No client ID holds more than ASCII, and JSON's half surrogates could not even be looked up.
        raise InvalidClient("the assertion has no sub: it names the client ID")
    if credentials.client_id not in (None, subject):
        raise InvalidClient("client_id is not the assertion's sub")
    return _Unverified(text, subject, Algorithm(algorithm))


def _peek(text: str) -> tuple[object, object]:
    """Read ``alg`` and ``sub``, which tell what key to look for; the whole is read in earnest under that key.

    Whoever fools this reader alone gains nothing: both are checked again there, and another is refused.
    """
    try:
        header, claims, _ = text.split(".")
        return _members(header).get("alg"), _members(claims).get("sub")
    except (ValueError, RecursionError):
        raise InvalidClient("client_assertion is no JWT") from None


def _members(segment: str) -> dict[str, object]:
    members = json.loads(base64.urlsafe_b64decode(f"{segment}=="))
    if not isinstance(members, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - as for any other text that is none
    return members


def _instant(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise InvalidClient(f"the assertion's {name} must be a number: seconds since 1970 in UTC")
    return float(value)
