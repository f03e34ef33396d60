"""The requests of a device to the server (RFC 6749, RFC 7009, RFC 7523, RFC 8414)."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import jwt

from app.errors import Misconfigured, Refusal
from app.model.devices import ASSERTION_TYPE
from app.model.secrets import ClientSecret

_TIMEOUT_S: Final = 15
_ASSERTION_LIFE_S: Final = 60


@dataclass(frozen=True)
class DeviceCredentials:
    """A device's client ID, and its secret or private key (PEM) with the algorithm."""

    client_id: str
    key: ClientSecret
    algorithm: str = "HS256"


class ServerRefusal(Refusal):
    """The server refused or did not answer; ``retry_after_s`` is set if trying again later can help."""


class Server:
    """One server, called by one device. All calls block, for at most 15 seconds."""

    def __init__(self, url: str, credentials: DeviceCredentials) -> None:
        """``url`` is that of any instance; the audience of the assertions is the issuer that it names.

        Raises ``ServerRefusal``, and ``Misconfigured`` if no token server answers.
        """
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._ahead_s = 0.0
        try:
            self._issuer = str(self._call("/.well-known/oauth-authorization-server")["issuer"])
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"{url} is not the URL of a token server ({error}): check --server") from error

    def token(self, *, scope: str = "", expires_in_s: int | None = None) -> dict[str, Any]:
        """Request a token; return the whole token answer. Raises ``ServerRefusal``."""
        form = {
            "grant_type": "client_credentials",
            "scope": scope,
            "expires_in": "" if expires_in_s is None else expires_in_s,
        }
        return self._call("/oauth/token", {name: str(value) for name, value in form.items() if value != ""})

    def revoke(self, token: str) -> None:
        """Revoke one of the device's own tokens (RFC 7009 2.1). Raises ``ServerRefusal``."""
        self._call("/oauth/revoke", {"token": token})

    def _call(self, path: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        body = None if form is None else urlencode({**form, **self._assertion()}).encode()
        request = Request(self._url + path, data=body)  # noqa: S310 - the user of the command line gave the URL
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                if timestamp := answer.headers.get("X-Timestamp"):
                    # A device without a clock, or with a wrong one, takes the time from here.
                    self._ahead_s = float(timestamp) - time.time()
                text = answer.read()
        except HTTPError as error:
            with error:
                raise _refusal_of(error) from error
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ServerRefusal(f"{self._url} does not answer: {reason}", retry_after_s=1) from error
        return json.loads(text) if text else {}

    def _assertion(self) -> dict[str, str]:
        """Sign a new client assertion (RFC 7523 3): only for this issuer, valid for one minute and one use."""
        now = int(time.time() + self._ahead_s)
        name = self._credentials.client_id
        claims = {
            "iss": name,
            "sub": name,
            "aud": self._issuer,
            "iat": now,
            "exp": now + _ASSERTION_LIFE_S,
            "jti": uuid.uuid4().hex,
        }
        try:
            signed = jwt.encode(claims, self._credentials.key.reveal(), algorithm=self._credentials.algorithm)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Misconfigured(f"the device's key cannot sign with {self._credentials.algorithm}: {error}") from error
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}


def read_private_key(text: str) -> tuple[ClientSecret, str]:
    """Return a private key (PEM) and its algorithm. Raises ``Misconfigured``."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 - slow to load
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise Misconfigured(f"--private-key: not an unencrypted private key in PEM ({error})") from error
    kinds = {ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA", rsa.RSAPrivateKey: "RS256"}
    for kind, algorithm in kinds.items():
        if isinstance(key, kind):
            return ClientSecret(text), algorithm
    raise Misconfigured("--private-key: not a supported key: use EC P-256, Ed25519 or RSA")


def _refusal_of(error: HTTPError) -> ServerRefusal:
    text = error.read()
    try:
        answer = json.loads(text)
        words = f"{answer['error']}: {answer.get('error_description', '')}"
    except (ValueError, KeyError, TypeError):
        words = text.decode(errors="replace")[:200]
    after = error.headers.get("Retry-After", "")
    return ServerRefusal(
        f"the server refused: {error.code} {words}", retry_after_s=int(after) if after.isdigit() else None
    )
