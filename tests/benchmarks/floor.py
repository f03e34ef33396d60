"""A bare server: the least code that returns the same bytes as ours. Its processor time is the benchmark's "floor".

It only uses the necessary parts: aiohttp, the form, PyJWT, one script call, AES-GCM, JSON; for introspection also the
QueryTokens, signed and sent over a kept-alive session. It has no policy, quota, log, metrics or deadline, and no
refusal except 401. The difference to our server is the cost of what our server adds.

It imports nothing of ``app`` and has its own data in Redis. Change it only if it is wrong, and never to improve a
ratio: neither make it slower, nor add an optimization of ours.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import aiohttp
import jwt
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from redis.asyncio import Redis

SCRIPT: Final = """
if not redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) then return false end
return redis.call('GET', KEYS[2])
"""
LEEWAY_S: Final = 60
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Floor:
    """A server of ``token`` and ``introspect`` for given devices and tokens."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the configuration that ``site.py`` writes."""
        self.issuer: str = config["issuer"]
        self.mqtt: dict[str, Any] = config["mqtt"]
        self.secrets: dict[str, bytes] = {name: text.encode() for name, text in config["secrets"].items()}
        self.cloud: dict[str, str] = config["cloud"]
        self.sealing = AESGCM(bytes.fromhex(config["sealing_key"]))
        self.redis = Redis.from_url(config["redis_url"])

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Load the script and open the session to the cloud."""
        self.sha = await self.redis.script_load(SCRIPT)
        async with aiohttp.ClientSession() as self.session:
            yield
        await self.redis.aclose()

    async def token(self, request: web.Request) -> web.Response:
        """Return the live token of a device."""
        form = dict(parse_qsl((await request.read()).decode()))
        claims = self.verify(form["client_assertion"])
        token = await self.use(claims, f"floor:of:{claims['sub']}")
        password = "|".join(f"{type_}|{text}" for type_, text in token["tokens"])
        answer = {
            "access_token": password,
            "token_type": "Bearer",
            "expires_in": (token["expires_at_ms"] - int(time.time() * 1000)) // 1000,
            "scope": token["scope"],
            "mqtt": {
                "host": self.mqtt["host"],
                "port": self.mqtt["port"],
                "tls": self.mqtt["tls"],
                "client_id": token["client_id"],
                "username": self.mqtt["username"],
                "password": password,
                "tokens": [
                    {"type": type_, "token": text, "expires_at": token["expires_at_ms"]}
                    for type_, text in token["tokens"]
                ],
            },
            "handle": token["handle"],
        }
        return web.json_response(answer, headers=NO_STORE)

    async def introspect(self, request: web.Request) -> web.Response:
        """Introspect a token, after asking the cloud about both of its cloud tokens."""
        form = dict(parse_qsl((await request.read()).decode()))
        claims = self.verify(form["client_assertion"])
        token = await self.use(claims, held_key(form["token"]))
        good = await asyncio.gather(*(self.query(text) for _, text in token["tokens"]))
        if token["client_id"] != claims["sub"] or not all(good):
            return web.json_response({"active": False}, headers=NO_STORE)
        answer = {
            "active": True,
            "client_id": token["client_id"],
            "sub": token["client_id"],
            "scope": token["scope"],
            "token_type": "Bearer",
            "iss": self.issuer,
            "iat": token["issued_at_s"],
            "exp": token["expires_at_ms"] // 1000,
            "handle": token["handle"],
            "cloud_checked": True,
        }
        return web.json_response(answer, headers=NO_STORE)

    def verify(self, assertion: str) -> dict[str, Any]:
        """Verify an assertion under the secret of the device it names."""
        payload = assertion.split(".")[1]
        client_id = json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"]
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion,
                self.secrets[client_id],
                algorithms=["HS256"],
                audience=self.issuer,
                issuer=client_id,
                leeway=LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "jti"]},
            )
        except (KeyError, jwt.PyJWTError):
            raise web.HTTPUnauthorized from None
        return claims

    async def use(self, claims: dict[str, Any], key: str) -> dict[str, Any]:
        """Use up the assertion and read the encrypted token under ``key``, in one call to Redis."""
        used = f"floor:jti:{claims['sub']}:{claims['jti']}"
        lives_ms = int((claims["exp"] + LEEWAY_S - time.time()) * 1000)
        sealed = await self.redis.evalsha(self.sha, 2, used, key, lives_ms)
        if sealed is None:
            raise web.HTTPUnauthorized
        token: dict[str, Any] = json.loads(self.sealing.decrypt(sealed[:12], sealed[12:], None))
        return token

    async def query(self, token: str) -> bool:
        """Ask the cloud whether a cloud token is valid."""
        body = signed({"Action": "QueryToken", "Token": token}, self.cloud)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with self.session.post(self.cloud["endpoint"], data=body, headers=headers) as response:
            return bool((await response.json())["TokenStatus"])


def signed(parameters: dict[str, str], cloud: dict[str, str]) -> bytes:
    """Return the body of a signed call (guide chapter 5)."""
    parameters |= {
        "AccessKeyId": cloud["access_key_id"],
        "Format": "JSON",
        "InstanceId": cloud["instance_id"],
        "RegionId": cloud["region"],
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": str(uuid.uuid4()),
        "SignatureVersion": "1.0",
        "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "Version": "2020-04-20",
    }
    query = "&".join(f"{quote(name, '')}={quote(value, '')}" for name, value in sorted(parameters.items()))
    key = f"{cloud['access_key_secret']}&".encode()
    mac = hmac.digest(key, f"POST&%2F&{quote(query, '')}".encode(), "sha1")
    return f"{query}&Signature={quote(base64.b64encode(mac), '')}".encode()


def held_key(access_token: str) -> str:
    """Return the key of a token's record."""
    return f"floor:held:{hashlib.sha256(access_token.encode()).hexdigest()}"


async def stock(redis: Redis, sealing_key: bytes, token: dict[str, Any]) -> None:
    """Store a token that our server issued, so that this server returns the same bytes."""
    nonce = os.urandom(12)
    sealed = nonce + AESGCM(sealing_key).encrypt(nonce, json.dumps(token).encode(), None)
    password = "|".join(f"{type_}|{text}" for type_, text in token["tokens"])
    await redis.mset({f"floor:of:{token['client_id']}": sealed, held_key(password): sealed})


async def main(config: dict[str, Any]) -> None:
    """Serve until killed."""
    floor = Floor(config)
    app = web.Application()
    app.router.add_post("/oauth/token", floor.token)
    app.router.add_post("/oauth/introspect", floor.introspect)
    app.cleanup_ctx.append(floor.run)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", config["port"]).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
