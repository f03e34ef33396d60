"""The requests of devices, as bytes: each with an assertion of its own, signed with HS256."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus

from tests.callers import ASSERTION_TYPE

VALID_S: Final = 280
"""How long an assertion is valid; the server accepts 300 s."""

TOKEN: Final = "/oauth/token"
INTROSPECT: Final = "/oauth/introspect"
REVOKE: Final = "/oauth/revoke"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


_HEADER: Final = _base64url(b'{"alg":"HS256","typ":"JWT"}')
_JTI_PREFIX: Final = secrets.token_hex(8)
_numbers: Final[Iterator[int]] = itertools.count()


@dataclass(frozen=True, slots=True)
class FleetDevice:
    """A registered device, and the issuer that its assertions are for."""

    client_id: str
    secret: bytes
    issuer: str

    def request(self, path: str, **form: str) -> bytes:
        """Return a complete request with a new assertion: 15 µs."""
        fields = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self._assertion(), **form}
        body = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items())
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def token_request(self) -> bytes:
        """Return a request for a token with all that the device's role permits."""
        return self.request(TOKEN, grant_type="client_credentials")

    def owns(self, answer: bytes) -> bool:
        """Return whether a token response is for this device."""
        return b'"access_token"' in answer and f'"{self.client_id}"'.encode() in answer

    def _assertion(self) -> str:
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "exp": int(time.time()) + VALID_S,
            "jti": f"{_JTI_PREFIX}{next(_numbers)}",
        }
        signed = f"{_HEADER}.{_base64url(json.dumps(claims).encode())}"
        return f"{signed}.{_base64url(hmac.digest(self.secret, signed.encode(), 'sha256'))}"


def read_devices(path: Path, issuer: str, chosen: slice) -> list[FleetDevice]:
    """Read some of the registered devices from a file."""
    return [
        FleetDevice(each["client_id"], each["secret"].encode(), issuer)
        for each in json.loads(path.read_text(encoding="utf-8"))[chosen]
    ]
