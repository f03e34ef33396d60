"""A caller of the cloud's API that signs as the guide says, with an option for each mistake."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from yarl import URL

from app.model.secrets import AccessKeySecret
from app.rpc import signature
from app.rpc.catalog import API_VERSION
from app.sandbox.access_keys import AccessKey

KEYS = {"ak-one": AccessKeySecret("secret-one"), "ak-two": AccessKeySecret("secret-two")}
ACCESS_KEYS = {access_key_id: AccessKey(secret) for access_key_id, secret in KEYS.items()}
INSTANCE = "post-cn-test"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    text: str
    content_type: str

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        body: dict[str, Any] = json.loads(self.text)
        return body

    @property
    def code(self) -> str:
        """The error code, or OK."""
        return str(self.json.get("Code", "OK"))


def in_ms(seconds: float) -> int:
    """Return the time in so many seconds, in milliseconds since the epoch."""
    return round((time.time() + seconds) * 1000)


def timestamp(ahead_s: float = 0) -> str:
    """Return a Timestamp so many seconds ahead."""
    return datetime.fromtimestamp(time.time() + ahead_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Caller:
    """Signs and sends."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        access_key_id: str = "ak-one",
        secret: AccessKeySecret | None = None,
    ) -> None:
        self.http = http
        self.url = url
        self.access_key_id = access_key_id
        self.secret = secret or KEYS.get(access_key_id, AccessKeySecret("?"))

    def forger(self) -> Caller:
        """Return a caller that knows the access key ID and not the secret."""
        return Caller(self.http, self.url, self.access_key_id, AccessKeySecret("wrong"))

    def signed(self, action: str, method: str = "POST", /, **given: str | None) -> dict[str, str]:
        """Return the parameters of a call with its signature; a parameter given as ``None`` is left out."""
        whole: dict[str, str | None] = {
            "Action": action,
            "Version": API_VERSION,
            "Format": "JSON",
            "AccessKeyId": self.access_key_id,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": uuid.uuid4().hex,
            "Timestamp": timestamp(),
            "InstanceId": INSTANCE,
            **given,
        }
        parameters = {name: value for name, value in whole.items() if value is not None}
        string_to_sign = signature.rpc_string_to_sign(method, parameters)
        return {"Signature": signature.rpc_signature(self.secret, string_to_sign), **parameters}

    async def send(
        self,
        query: Mapping[str, str] | str = "",
        form: Mapping[str, str] | str = "",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send query and form as they are."""
        text = query if isinstance(query, str) else urlencode(query)
        body = form if isinstance(form, str) else urlencode(form)
        async with self.http.request(
            method,
            URL(f"{self.url}/?{text}", encoded=True),
            data=body.encode() or None,
            headers={"Content-Type": FORM, **(headers or {})},
        ) as response:
            return Reply(response.status, await response.text(), response.headers["Content-Type"])

    async def call(self, action: str, /, **given: str | None) -> Reply:
        """Call ``action`` with all parameters in the body."""
        return await self.send(form=self.signed(action, **given))

    async def acs3(
        self,
        action: str,
        *,
        query: Mapping[str, str],
        body: bytes = b"",
        sent_body: bytes | None = None,
        unsigned: frozenset[str] = frozenset(),
        headers: Mapping[str, str | None] | None = None,
        extra: tuple[tuple[str, str], ...] = (),
        authorization: str = "",
    ) -> Reply:
        """Call ``action`` with ACS3-HMAC-SHA256; ``sent_body`` replaces the one signed, ``extra`` headers go first."""
        whole: dict[str, str | None] = {
            "host": urlsplit(self.url).netloc,
            "x-acs-action": action,
            "x-acs-version": API_VERSION,
            "x-acs-date": timestamp(),
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
            **(headers or {}),
        }
        sent = {name: value for name, value in whole.items() if value is not None}
        names = sorted(set(sent) - unsigned)
        string_to_sign = signature.acs3_string_to_sign(
            "POST", "/", query, sent, names, sent.get("x-acs-content-sha256", "")
        )
        mac = signature.acs3_signature(self.secret, string_to_sign)
        authorization = authorization or (
            f"{signature.ACS3} Credential={self.access_key_id},SignedHeaders={';'.join(names)},Signature={mac}"
        )
        async with self.http.post(
            URL(f"{self.url}/?{urlencode(query)}", encoded=True),
            data=(body if sent_body is None else sent_body) or None,
            headers=[*extra, *sent.items(), ("Authorization", authorization), ("Content-Type", FORM)],
        ) as response:
            return Reply(response.status, await response.text(), response.headers["Content-Type"])

    async def token(self, actions: str, resources: str, life_s: float = 3600, **given: str) -> str:
        """Apply for a token that must be granted."""
        reply = await self.call(
            "ApplyToken", Actions=actions, Resources=resources, ExpireTime=str(in_ms(life_s)), **given
        )
        assert reply.code == "OK", reply.text
        return str(reply.json["Token"])

    async def revoke(self, token: str) -> None:
        """Revoke a token; that must be answered OK."""
        assert (await self.call("RevokeToken", Token=token)).code == "OK"

    async def status(self, token: str) -> bool:
        """Return QueryToken's TokenStatus."""
        return bool((await self.call("QueryToken", Token=token)).json["TokenStatus"])

    async def control(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Use one of the sandbox's own endpoints; a refusal raises."""
        async with self.http.request(
            method, f"{self.url}/_sandbox/{path}", json=body, headers=headers, raise_for_status=True
        ) as response:
            return await response.json()

    async def move_clock(self, offset_s: float) -> None:
        """Move the sandbox's clock."""
        await self.control("POST", "clock", {"offset_s": offset_s})
