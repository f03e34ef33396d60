"""A device as a caller: it signs assertions, rightly or wrongly, and sends forms."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from aiohttp import ClientResponse, encode_basic_auth
from aiohttp.test_utils import TestClient

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Caller:
    """A device with its key (a shared secret, or a private key as PEM), calling one server."""

    client: TestClient[Any, Any]
    issuer: str
    client_id: str
    key: str
    algorithm: str = "HS256"

    def assertion(self, *, key: str | None = None, algorithm: str | None = None, **claims: Any) -> str:
        """Sign an assertion; ``claims`` replace the right ones, and None leaves one out."""
        now = int(time.time())
        right = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "exp": now + 120,
            "jti": str(uuid.uuid4()),
        }
        payload = {name: value for name, value in (right | claims).items() if value is not None}
        return jwt.encode(payload, self.key if key is None else key, algorithm or self.algorithm)

    def form(self, assertion: str | None = None, **parameters: str) -> dict[str, str]:
        """Return a token request with a fresh assertion."""
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion or self.assertion(),
        } | parameters

    def basic(self, secret: str | None = None) -> dict[str, str]:
        """Return the header of HTTP Basic."""
        return {"Authorization": encode_basic_auth(self.client_id, self.key if secret is None else secret)}

    async def post(self, path: str, form: Any, **options: Any) -> Answer:
        """Send a form."""
        async with self.client.post(path, data=form, **options) as response:
            return await read(response)

    async def token(self, assertion: str | None = None, **parameters: str) -> Answer:
        """Ask for a token."""
        return await self.post("/oauth/token", self.form(assertion, **parameters))

    async def token_by_basic(self, secret: str | None = None, **parameters: str) -> Answer:
        """Ask for a token with HTTP Basic."""
        return await self.post(
            "/oauth/token", {"grant_type": "client_credentials"} | parameters, headers=self.basic(secret)
        )

    async def introspect(self, token: str) -> Answer:
        """Ask what a token is."""
        return await self.post("/oauth/introspect", self.form(token=token))

    async def revoke(self, token: str) -> Answer:
        """Revoke a token."""
        return await self.post("/oauth/revoke", self.form(token=token))


async def read(response: ClientResponse) -> Answer:
    """Read an answer, which is JSON whatever happened."""
    assert response.content_type == "application/json", await response.text()
    return Answer(response.status, await response.json(), response.headers)
