"""Verify a request to the gateway: its signature, time and nonce (guide chapter 5, FACTS 3.2, 4 and 5).

There are two kinds of signature: RPC, where the signature is a parameter, and ACS3, where it is a header. Both are
verified in the gateway's order: missing parameters, API and algorithm, access key, time, signature, nonce, STS token.
A nonce is spent only after the signature was verified, or anyone could spend the nonces of others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from app.model.secrets import AccessKeySecret, Secret
from app.rpc import signature
from app.rpc.catalog import ACTIONS, API_VERSION, UNSUPPORTED
from app.sandbox.access_keys import AccessKey
from app.sandbox.answers import CallRefused
from app.sandbox.gateway_request import GatewayRequest
from app.sandbox.state import SandboxState

SKEW_MS: Final = 15 * 60 * 1000

_RPC_COMMON: Final = (
    "Action",
    "Version",
    "AccessKeyId",
    "SignatureMethod",
    "SignatureVersion",
    "SignatureNonce",
    "Timestamp",
    "Signature",
)
_ACS3_COMMON: Final = {
    "x-acs-action": "Action",
    "x-acs-version": "Version",
    "x-acs-date": "Timestamp",
    "x-acs-signature-nonce": "SignatureNonce",
    "x-acs-content-sha256": "x-acs-content-sha256",
}
"""The headers that must be there, each with the name by which a refusal calls it."""

_ACS3_MUST_SIGN: Final = frozenset({"host", *_ACS3_COMMON})
_ACS3_AUTHORIZATION: Final = re.compile(
    rf"{signature.ACS3} Credential=(?P<key>[^,\s]+),\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<mac>[^,\s]+)"
)
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCall:
    """A call whose caller has proven to hold the access key."""

    action: str
    access_key_id: str
    key: AccessKey
    parameters: Mapping[str, str]

    @property
    def account(self) -> str:
        """The account of the caller."""
        return self.key.account


@dataclass(frozen=True, slots=True, kw_only=True)
class _SignatureClaim:
    """What a request claims about its signature; not verified."""

    access_key_id: str
    timestamp: str
    nonce: str
    signature: str
    security_token: str
    """Empty if there is none."""
    signed_headers: tuple[str, ...] = ()
    """With ACS3 only."""


class _SignatureScheme(NamedTuple):
    read_claim: Callable[[GatewayRequest], _SignatureClaim]
    """Raises ``CallRefused`` for what is missing or not served."""
    check_signature: Callable[[GatewayRequest, _SignatureClaim, AccessKeySecret], None]
    """Raises ``CallRefused`` unless the request is signed with the secret."""


async def verify_call(
    request: GatewayRequest, *, keys: Mapping[str, AccessKey], state: SandboxState, now_ms: int
) -> VerifiedCall:
    """Verify ``request`` and spend its nonce. Raises ``CallRefused``, and ``sqlite3.Error`` from the nonce."""
    if request.method not in ("GET", "POST"):
        raise CallRefused("UnsupportedHTTPMethod")
    scheme = _ACS3 if request.is_acs3 else _RPC
    claim = scheme.read_claim(request)
    key = _active_key(keys, claim.access_key_id)
    sent_at_ms = _checked_time_ms(claim.timestamp, now_ms)
    scheme.check_signature(request, claim, key.secret)
    # A time stamp that is ahead stays valid for longer than 15 minutes, so its nonce stays spent for as long.
    until_ms = max(now_ms, sent_at_ms) + SKEW_MS + 1
    if not await state.spend_nonce(claim.access_key_id, claim.nonce, now_ms=now_ms, until_ms=until_ms):
        raise CallRefused("SignatureNonceUsed")
    _check_security_token(key, claim.security_token, now_ms)
    return VerifiedCall(
        action=request.action, access_key_id=claim.access_key_id, key=key, parameters=request.parameters
    )


def _read_rpc_claim(request: GatewayRequest) -> _SignatureClaim:
    given = request.parameters
    for name in _RPC_COMMON:
        if not given.get(name):
            raise CallRefused("Missing%s", name)
    _check_api(given["Version"], given["Action"])
    if given["SignatureMethod"].upper() != "HMAC-SHA1":  # the guide itself has Hmac-SHA1 in chapter 7
        raise CallRefused("InvalidSignatureMethod")
    if given["SignatureVersion"] != "1.0":
        raise CallRefused("InvalidSignatureVersion")
    return _SignatureClaim(
        access_key_id=given["AccessKeyId"],
        timestamp=given["Timestamp"],
        nonce=given["SignatureNonce"],
        signature=given["Signature"],
        security_token=given.get("SecurityToken", ""),
    )


def _check_rpc_signature(request: GatewayRequest, claim: _SignatureClaim, secret: AccessKeySecret) -> None:
    string_to_sign = signature.rpc_string_to_sign(request.method, request.parameters)
    if not signature.equal(claim.signature, signature.rpc_signature(secret, string_to_sign)):
        raise CallRefused("SignatureDoesNotMatch", string_to_sign)


def _read_acs3_claim(request: GatewayRequest) -> _SignatureClaim:
    for header, name in _ACS3_COMMON.items():
        if not request.headers.get(header):
            raise CallRefused("Missing%s", name)
    authorization = _ACS3_AUTHORIZATION.fullmatch(request.headers["Authorization"])
    if authorization is None:
        raise CallRefused("Missing%s", "Signature")
    headers = _lowercase_headers(request)
    _check_api(headers["x-acs-version"], headers["x-acs-action"])
    return _SignatureClaim(
        access_key_id=authorization["key"],
        timestamp=headers["x-acs-date"],
        nonce=headers["x-acs-signature-nonce"],
        signature=authorization["mac"],
        security_token=request.headers.get("x-acs-security-token", ""),
        signed_headers=tuple(authorization["headers"].split(";")),
    )


def _check_acs3_signature(request: GatewayRequest, claim: _SignatureClaim, secret: AccessKeySecret) -> None:
    headers, signed = _lowercase_headers(request), claim.signed_headers
    if missing := sorted(name for name in signed if name not in headers):
        raise CallRefused("Missing%s", missing[0])
    body_sha256 = headers["x-acs-content-sha256"]
    string_to_sign = signature.acs3_string_to_sign(
        request.method, request.path, request.query, headers, signed, body_sha256
    )
    is_trusted = (
        signature.equal(claim.signature, signature.acs3_signature(secret, string_to_sign))
        # Attack: an unsigned action, date or body is exchanged on the way.
        and _ACS3_MUST_SIGN.issubset(signed)
        # Attack: a header is added a second time; the signature covers one of the two values only.
        and all(len(request.headers.getall(name)) == 1 for name in signed)
        and signature.equal(body_sha256.lower(), hashlib.sha256(request.body).hexdigest())
    )
    if not is_trusted:
        raise CallRefused("SignatureDoesNotMatch", string_to_sign)


def _lowercase_headers(request: GatewayRequest) -> Mapping[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _check_api(version: str, action: str) -> None:
    if version != API_VERSION:
        raise CallRefused("InvalidVersion")
    if action in UNSUPPORTED:
        raise CallRefused("ApiNotSupport")
    if action not in ACTIONS:
        raise CallRefused("InvalidAction.NotFound")


def _active_key(keys: Mapping[str, AccessKey], access_key_id: str) -> AccessKey:
    key = keys.get(access_key_id)
    if key is None:
        raise CallRefused("InvalidAccessKeyId.NotFound")
    if not key.active:
        raise CallRefused("InvalidAccessKeyId.Inactive")
    return key


def _checked_time_ms(timestamp: str, now_ms: int) -> int:
    """Return the time of a request in milliseconds, if it is at most 15 minutes from ``now_ms``."""
    if not _TIMESTAMP.fullmatch(timestamp):
        raise CallRefused("InvalidTimeStamp.Format")
    try:
        sent_at = datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise CallRefused("InvalidTimeStamp.Format") from None
    sent_at_ms = round(sent_at.timestamp() * 1000)
    if abs(now_ms - sent_at_ms) > SKEW_MS:
        raise CallRefused("InvalidTimeStamp.Expired")
    return sent_at_ms


def _check_security_token(key: AccessKey, given: str, now_ms: int) -> None:
    """Check that a temporary key comes with its own STS token in time, and any other key with none."""
    if key.security_token is None:
        if given:
            raise CallRefused("CheckAccountInfoFailed")
        return
    if not given:
        raise CallRefused("Missing%s", "SecurityToken")
    if key.security_token != Secret(given):
        raise CallRefused("CheckAccountInfoFailed")
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise CallRefused("InvalidSecurityToken.Expired")


_RPC: Final = _SignatureScheme(_read_rpc_claim, _check_rpc_signature)
_ACS3: Final = _SignatureScheme(_read_acs3_claim, _check_acs3_signature)
