"""Who calls: the gateway's checks of a request's signature, time and nonce (guide chapter 5, FACTS 3.2, 4 and 5).

Both kinds of signature end in the same ``Call``. The checks stand in the gateway's order: what is missing, what is
not served, who, when, the signature, the nonce. A nonce is spent only by a request whose signature verified, or a
stranger could spend the nonces of others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from multidict import CIMultiDictProxy

from app.model.secrets import Secret
from app.rpc import signature
from app.rpc.catalog import ACTIONS, API_VERSION, UNSUPPORTED
from app.sandbox.answers import Fault, Format
from app.sandbox.keys import AccessKey
from app.sandbox.state import State

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
_ACS3_MUST_SIGN: Final = frozenset({"host", *_ACS3_COMMON})
_ACS3_AUTHORIZATION: Final = re.compile(
    rf"{signature.ACS3} Credential=(?P<key>[^,\s]+),\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<mac>[^,\s]+)"
)
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to the gateway, taken apart and not yet believed."""

    method: str
    path: str
    query: Mapping[str, str]
    parameters: Mapping[str, str]
    """Query and form merged."""
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def is_acs3(self) -> bool:
        """Whether the signature is a header and not a parameter."""
        return self.headers.get("Authorization", "").startswith(signature.ACS3)

    @property
    def action(self) -> str:
        """The action it claims to call; empty if none."""
        return self.headers.get("x-acs-action", "") if self.is_acs3 else self.parameters.get("Action", "")


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose caller is proven."""

    action: str
    access_key_id: str
    key: AccessKey
    parameters: Mapping[str, str]

    @property
    def account(self) -> str:
        """The account it is made for."""
        return self.key.account


def answer_format(request: Request) -> Format:
    """Return the format asked for, in any case of letters.

    Left out it is XML: the guide's table says JSON, its prose and the gateway's habit say XML (FACTS 0.6). A caller
    with ACS3 has no such parameter and gets JSON. Raises ``Fault``.
    """
    if request.is_acs3:
        return Format.JSON
    try:
        return Format[request.parameters.get("Format", "XML").upper()]
    except KeyError:
        raise Fault("InvalidParameter.Format") from None


async def verify(request: Request, *, keys: Mapping[str, AccessKey], state: State, now_ms: int) -> Call:
    """Check ``request`` and spend its nonce. Raises ``Fault``."""
    if request.method not in ("GET", "POST"):
        raise Fault("UnsupportedHTTPMethod")
    check = _verify_acs3 if request.is_acs3 else _verify_rpc
    access_key_id, nonce, sent_at_ms = check(request, keys, now_ms)
    key = keys[access_key_id]
    # A time stamp from ahead stays good for longer than 15 minutes, so its nonce stays spent for as long.
    until_ms = max(now_ms, sent_at_ms) + SKEW_MS + 1
    if not await state.spend_nonce(access_key_id, nonce, now_ms=now_ms, until_ms=until_ms):
        raise Fault("SignatureNonceUsed")
    given = request.headers.get("x-acs-security-token") if request.is_acs3 else request.parameters.get("SecurityToken")
    _check_security_token(key, given or "", now_ms)
    return Call(request.action, access_key_id, key, request.parameters)


def _verify_rpc(request: Request, keys: Mapping[str, AccessKey], now_ms: int) -> tuple[str, str, int]:
    given = request.parameters
    for name in _RPC_COMMON:
        if not given.get(name):
            raise Fault("Missing%s", name)
    _check_api(given["Version"], given["Action"])
    if given["SignatureMethod"].upper() != "HMAC-SHA1":  # the guide itself writes Hmac-SHA1 in chapter 7
        raise Fault("InvalidSignatureMethod")
    if given["SignatureVersion"] != "1.0":
        raise Fault("InvalidSignatureVersion")
    secret = _active(keys, given["AccessKeyId"]).secret
    sent_at_ms = _check_time(given["Timestamp"], now_ms)
    string_to_sign = signature.rpc_string_to_sign(request.method, given)
    if not signature.equal(given["Signature"], signature.rpc_signature(secret, string_to_sign)):
        raise Fault("SignatureDoesNotMatch", string_to_sign)
    return given["AccessKeyId"], given["SignatureNonce"], sent_at_ms


def _verify_acs3(request: Request, keys: Mapping[str, AccessKey], now_ms: int) -> tuple[str, str, int]:
    for header, name in _ACS3_COMMON.items():
        if not request.headers.get(header):
            raise Fault("Missing%s", name)
    authorization = _ACS3_AUTHORIZATION.fullmatch(request.headers["Authorization"])
    if authorization is None:
        raise Fault("Missing%s", "Signature")
    headers = {name.lower(): value for name, value in request.headers.items()}
    _check_api(headers["x-acs-version"], headers["x-acs-action"])
    secret = _active(keys, authorization["key"]).secret
    sent_at_ms = _check_time(headers["x-acs-date"], now_ms)
    signed = authorization["headers"].split(";")
    if missing := sorted(name for name in signed if name not in headers):
        raise Fault("Missing%s", missing[0])
    string_to_sign = signature.acs3_string_to_sign(
        request.method, request.path, request.query, headers, signed, headers["x-acs-content-sha256"]
    )
    trusted = (
        signature.equal(authorization["mac"], signature.acs3_signature(secret, string_to_sign))
        # An unsigned action, date or body could be exchanged on the way.
        and _ACS3_MUST_SIGN.issubset(signed)
        # A header given twice is signed once: the other value would be anybody's.
        and all(len(request.headers.getall(name)) == 1 for name in signed)
        and signature.equal(headers["x-acs-content-sha256"].lower(), hashlib.sha256(request.body).hexdigest())
    )
    if not trusted:
        raise Fault("SignatureDoesNotMatch", string_to_sign)
    return authorization["key"], headers["x-acs-signature-nonce"], sent_at_ms


def _check_api(version: str, action: str) -> None:
    if version != API_VERSION:
        raise Fault("InvalidVersion")
    if action in UNSUPPORTED:
        raise Fault("ApiNotSupport")
    if action not in ACTIONS:
        raise Fault("InvalidAction.NotFound")


def _active(keys: Mapping[str, AccessKey], access_key_id: str) -> AccessKey:
    key = keys.get(access_key_id)
    if key is None:
        raise Fault("InvalidAccessKeyId.NotFound")
    if not key.active:
        raise Fault("InvalidAccessKeyId.Inactive")
    return key


def _check_security_token(key: AccessKey, given: str, now_ms: int) -> None:
    """Check that a temporary key comes with its own STS token in its time, and any other key with none."""
    if key.security_token is None:
        if given:
            raise Fault("CheckAccountInfoFailed")
        return
    if not given:
        raise Fault("Missing%s", "SecurityToken")
    if key.security_token != Secret(given):
        raise Fault("CheckAccountInfoFailed")
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise Fault("InvalidSecurityToken.Expired")


def _check_time(text: str, now_ms: int) -> int:
    if not _TIMESTAMP.fullmatch(text):
        raise Fault("InvalidTimeStamp.Format")
    try:
        sent_at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Fault("InvalidTimeStamp.Format") from None
    sent_at_ms = round(sent_at.timestamp() * 1000)
    if abs(now_ms - sent_at_ms) > SKEW_MS:
        raise Fault("InvalidTimeStamp.Expired")
    return sent_at_ms
