"""A cloud that answers at once, over HTTP and TLS. It checks nothing, because only its callers are measured.

Its tokens have the average length of the sandbox's tokens.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import sys
import uuid
from typing import Any

import uvloop
from aiohttp import web


def answer(action: str) -> dict[str, Any]:
    """Return the cloud's response to a successful call (guide chapter 10)."""
    request_id = str(uuid.uuid4()).upper()
    if action == "ApplyToken":
        return {"RequestId": request_id, "Token": base64.b64encode(secrets.token_bytes(222)).decode()}
    return {"RequestId": request_id, "TokenStatus": True}


async def handle(request: web.Request) -> web.Response:
    """Answer a call. The official SDK names the action in a header, our client in the form."""
    form = await request.read()
    action = request.headers.get("x-acs-action") or ("ApplyToken" if b"Action=ApplyToken&" in form else "QueryToken")
    return web.json_response(answer(action))


async def main(http_port: int, tls_port: int, certificate: str) -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    await web.TCPSite(runner, "127.0.0.1", http_port).start()
    await web.TCPSite(runner, "127.0.0.1", tls_port, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*json.loads(sys.argv[1])))
