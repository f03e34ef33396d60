"""What a device proves itself with: a signed assertion (RFC 7523), or its shared secret (RFC 6749 section 2.3.1).

Both answer two questions. Whom does it claim to come from? And is it proven by this key? Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from app.errors import InvalidClient, InvalidRequest
from app.model.devices import Algorithm, MalformedClientId, parse_client_id
from app.model.secrets import ClientSecret, Secret
from app.service.verification_keys import VerificationKey

MAX_ASSERTION_BYTES: Final = 8 * 1024
MAX_ASSERTION_LIFE_S: Final = 300
LEEWAY_S: Final = 60
"""How far a device's clock may be off."""

MAX_JTI_CHARS: Final = 256


_ALGORITHMS: Final = frozenset(Algorithm)


class NotProven(InvalidClient):
    """A proof of which no signature or secret is right: anyone can send it. ``InvalidClient`` itself may be proven."""


class Claim(NamedTuple):
    """The device that a request claims to come from, and the kind of key; unverified."""

    client_id: str
    algorithm: Algorithm


class SingleUse(NamedTuple):
    """What makes a proof good once: the assertion's ``jti``, which must stay used until ``until_ms`` (Unix ms)."""

    jti: str
    until_ms: int


REUSABLE: Final = SingleUse("", 0)
"""A shared secret is not used up."""


@dataclass(frozen=True, slots=True)
class Basic:
    """A client ID and secret from the Authorization header, unverified."""

    client_id: str
    secret: ClientSecret

    @property
    def claim(self) -> Claim:
        """What the header claims; only a shared secret is sent so."""
        return Claim(self.client_id, Algorithm.HS256)

    def proven_by(self, key: VerificationKey, *, issuer: str, now_ms: int) -> SingleUse | None:  # noqa: ARG002 (it has no time)
        """Return a proof that is not used up if ``key`` is this secret, else None."""
        is_secret = isinstance(key, bytes) and hmac.compare_digest(self.secret.reveal().encode(), key)
        return REUSABLE if is_secret else None


@dataclass(frozen=True)
class Assertion:
    """A signed client assertion, unverified; ``client_id`` is the form's parameter, if there was one."""

    jwt: Secret
    client_id: str | None = None

    @cached_property
    def claim(self) -> Claim:
        """What the assertion says of itself; read once. Raises ``NotProven`` and ``InvalidRequest``."""
        text = self.jwt.reveal()
        if len(text) > MAX_ASSERTION_BYTES:
            raise InvalidRequest(f"client_assertion has more than {MAX_ASSERTION_BYTES} bytes")
        try:
            # An assertion that PyJWT reads differently gains nothing: it requires the alg and sub that are read here.
            header, claims, _ = text.split(".")
            algorithm, subject = _read_algorithm(header), _read_segment(claims).get("sub")
        except (ValueError, AttributeError, RecursionError):
            message = "client_assertion is not a valid JWT: it has three parts, base64url-encoded JSON"
            raise NotProven(message) from None
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            # `none` above all: an unsigned assertion proves nothing.
            raise NotProven(f"client_assertion must be signed with one of {', '.join(Algorithm)}")
        if not isinstance(subject, str) or not subject or not subject.isascii():
            # A client ID is ASCII; JSON's half surrogates could not even be looked up.
            raise NotProven("the assertion has no sub: it must name the client ID")
        if self.client_id not in (None, subject):
            raise NotProven("client_id differs from the assertion's sub: send the same in both, or leave it out")
        return Claim(subject, Algorithm(algorithm))

    def proven_by(self, key: VerificationKey, *, issuer: str, now_ms: int) -> SingleUse | None:
        """Return the ``jti`` to use if ``key`` signed this for ``issuer``, None if another key did.

        Raises ``InvalidClient`` for what the key signed and should not have: a wrong issuer, audience, time or ``jti``
        (RFC 7523 section 3); ``NotProven`` for what cannot be checked.
        """
        try:
            claims = jwt.decode(
                self.jwt.reveal(),
                key,
                algorithms=[self.claim.algorithm.value],  # the key's own: `Claim` chose the key by it
                audience=issuer,
                issuer=self.claim.client_id,
                subject=self.claim.client_id,
                options=_CHECKED,
            )
        except jwt.InvalidSignatureError:
            return None
        except jwt.MissingRequiredClaimError as error:
            raise InvalidClient(f"the assertion has no {error.claim}: add it and sign again") from None
        except jwt.InvalidAudienceError:
            raise InvalidClient(f"the assertion's aud must be {issuer} and nothing else") from None
        except (jwt.InvalidIssuerError, InvalidSubjectError, InvalidJTIError) as error:
            raise InvalidClient(f"the assertion is refused: {error}") from None
        except jwt.PyJWTError as error:
            # Before the signature was checked: a header that is not understood, for example.
            raise NotProven(f"the assertion is refused: {error}") from None
        return _check_times_and_jti(claims, now_ms / 1000)


ClientCredentials = Assertion | Basic

_CHECKED: Final[Any] = {
    "verify_signature": True,
    "enforce_minimum_key_length": True,
    "require": ["iss", "sub", "aud", "exp", "jti"],
    "verify_iss": True,
    "verify_sub": True,
    "verify_aud": True,
    # An assertion for several servers could be replayed by one of them at the others.
    "strict_aud": True,
    "verify_jti": True,
    # By Redis's time, not this machine's: see _check_times_and_jti.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
"""Every flag of PyJWT, so that no default of another version decides."""


def claimed_client_id(credentials: ClientCredentials) -> str:
    """Return the client ID that a request claims to come from, proven or not; empty if it is not a valid one."""
    try:
        return parse_client_id(credentials.claim.client_id)
    except (NotProven, InvalidRequest, MalformedClientId):
        return ""


@lru_cache(maxsize=64)
def _read_algorithm(header: str) -> Any:
    """Return the ``alg`` of a header. Most devices send one of a few headers, letter by letter the same."""
    return _read_segment(header).get("alg")


def _read_segment(segment: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(f"{segment}=="))


def _check_times_and_jti(claims: dict[str, Any], now_s: float) -> SingleUse:
    """Check ``exp``, ``nbf``, ``iat`` and ``jti`` (RFC 7523 section 3, items 4 to 7)."""
    expires_s = _numeric_date(claims, "exp")
    if expires_s <= now_s - LEEWAY_S:
        ago_s = int(now_s - expires_s)
        raise InvalidClient(f"the assertion expired {ago_s} s ago: sign a new one, by the clock in X-Timestamp")
    if expires_s > now_s + MAX_ASSERTION_LIFE_S + LEEWAY_S:
        # A stolen assertion is worth as much as its life is long.
        raise InvalidClient(f"the assertion's exp is more than {MAX_ASSERTION_LIFE_S} s ahead: sign a shorter one")
    for name in ("nbf", "iat"):
        if name in claims and _numeric_date(claims, name) > now_s + LEEWAY_S:
            raise InvalidClient(f"the assertion's {name} is in the future: set the clock by X-Timestamp")
    jti = claims["jti"]
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARS:
        raise InvalidClient(f"the assertion's jti must be a text of 1 to {MAX_JTI_CHARS} characters")
    return SingleUse(jti, int((expires_s + LEEWAY_S) * 1000))


def _numeric_date(claims: dict[str, Any], name: str) -> float:
    """Return a time (RFC 7519 section 2), in Unix seconds."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise InvalidClient(f"the assertion's {name} must be a number: seconds since 1970 in UTC")
    return float(value)
