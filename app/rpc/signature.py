"""The two signatures that the cloud accepts, as pure functions.

``rpc_*`` is guide chapter 5 (HMAC-SHA1, the signature is a parameter). ``acs3_*`` is what the newer official SDKs
send (ACS3-HMAC-SHA256, the signature is a header). ``connect_password`` makes the password that the broker accepts in
place of a token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from app.model.secrets import AccessKeySecret, Secret

ACS3: Final = "ACS3-HMAC-SHA256"
_RESERVED: Final = re.compile(r"[^A-Za-z0-9._~-]")
_ENCODED: Final = {chr(code): f"%{code:02X}" for code in range(128)}


def percent_encode(text: str) -> str:
    """Percent-encode by RFC 3986 all but ``A-Za-z0-9-_.~`` (chapter 5, step 1.ii)."""
    if not text.isascii():
        return quote(text, safe="-_.~")
    # Faster than `quote`, which looks at each character: few of a call need encoding.
    return _RESERVED.sub(lambda reserved: _ENCODED[reserved[0]], text)


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Sort by name, encode names and values, and join (chapter 5, steps 1.i to 1.iv). Empty values are kept."""
    return "&".join(f"{percent_encode(name)}={percent_encode(parameters[name])}" for name in sorted(parameters))


def rpc_string_to_sign(method: str, parameters: Mapping[str, str]) -> str:
    """Build the string to sign (chapter 5, step 1.2); a ``Signature`` among the parameters is left out."""
    signed = {name: value for name, value in parameters.items() if name != "Signature"}
    return _rpc_string_to_sign(method, canonical_query(signed))


def _rpc_string_to_sign(method: str, query: str) -> str:
    # An encoded query contains only these three reserved characters.
    encoded = query.replace("%", "%25").replace("=", "%3D").replace("&", "%26")
    return f"{method}&%2F&{encoded}"


def rpc_signature(secret: AccessKeySecret, string_to_sign: str) -> str:
    """Sign with HMAC-SHA1 under the secret and a trailing ``&`` (chapter 5, step 2)."""
    mac = hmac.new(f"{secret.reveal()}&".encode(), string_to_sign.encode(), hashlib.sha1)
    return base64.b64encode(mac.digest()).decode()


def rpc_signed_form(method: str, secret: AccessKeySecret, parameters: Mapping[str, str]) -> str:
    """Return ``parameters`` and their ``Signature`` as a form, encoding each once (chapter 5)."""
    query = canonical_query(parameters)
    signed = rpc_signature(secret, _rpc_string_to_sign(method, query))
    return f"{query}&Signature={percent_encode(signed)}"


def acs3_string_to_sign(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    signed_headers: Iterable[str],
    payload_sha256: str,
) -> str:
    """Build the ACS3 string to sign.

    ``headers`` has lower-case names; ``signed_headers`` are taken in the order given (the client sorts them).
    Raises ``KeyError`` if a signed header is missing.
    """
    names = list(signed_headers)
    canonical_headers = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    request = "\n".join([method, path, canonical_query(query), canonical_headers, ";".join(names), payload_sha256])
    return f"{ACS3}\n{hashlib.sha256(request.encode()).hexdigest()}"


def acs3_signature(secret: AccessKeySecret, string_to_sign: str) -> str:
    """Sign with HMAC-SHA256 under the bare secret."""
    return hmac.new(secret.reveal().encode(), string_to_sign.encode(), hashlib.sha256).hexdigest()


def connect_password(secret: AccessKeySecret, client_id: str) -> Secret:
    """Return the MQTT password of the modes ``Signature`` and ``DeviceCredential``: the client ID, signed (FACTS 1)."""
    mac = hmac.new(secret.reveal().encode(), client_id.encode(), hashlib.sha1)
    return Secret(base64.b64encode(mac.digest()).decode())


def equal(given: str, computed: str) -> bool:
    """Compare two signatures in constant time, so that an attacker cannot find one byte after another."""
    return hmac.compare_digest(given.encode(), computed.encode())
