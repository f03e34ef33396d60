"""Reading what a request sends: parameters of the URL, a form or JSON.

One reader for OAuth, API and console: within the same limits of size and time, and strictly, so that no two readers of
one request can differ about what it says. What was sent is never quoted: it may be a secret in the wrong place.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import MultiDict

from app.errors import InvalidRequest, Refusal, TooLarge
from app.model.text import _

MAX_BODY_BYTES: Final = 64 * 1024
BODY_WITHIN_S: Final = 10.0
MAX_PARAMETERS: Final = 32
"""Of an OAuth request: more than the RFCs name, less than would be work."""
MAX_FIELDS: Final = 500
"""Of a form of the console: a page of tokens has a box for each of fifty; no form has more fields than this."""

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"

_RECEIVED: Final = web.RequestKey("received", list[Refusal])
"""Set once a body was waited for; it holds the refusal of one that could not be read, for the next reader."""


async def receive_body(request: web.Request, content_type: str) -> None:
    """Wait for a body before a place in a share is taken: a slow sender must not hold one.

    Nothing is raised here: ``read_body`` returns what came, or raises what was wrong with it.
    """
    request[_RECEIVED] = []
    try:
        await _receive(request, content_type)
    except Refusal as refusal:
        request[_RECEIVED].append(refusal)


def has_body(request: web.Request) -> bool:
    """Return whether there is a body to read, or one was received already."""
    return request.can_read_body or _RECEIVED in request


async def read_body(request: web.Request, content_type: str) -> bytes:
    """Read a body whole.

    Raises ``InvalidRequest`` for another content type, a compressed body or one that does not come whole within 10
    seconds; ``TooLarge`` beyond 64 KiB.
    """
    # What is left of a body that was too large or too slow must not be read as if it were the whole.
    for refusal in request.get(_RECEIVED, ()):
        raise refusal
    return await _receive(request, content_type)


async def _receive(request: web.Request, content_type: str) -> bytes:
    if request.content_type != content_type:
        raise InvalidRequest(_("send the parameters as %(content_type)s", content_type=content_type))
    if "Content-Encoding" in request.headers:
        raise InvalidRequest(_("the body has a Content-Encoding: send it as it is"))
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(_("the body has more than %(most)s bytes: send less", most=MAX_BODY_BYTES)) from None
    except OSError:  # a timeout, too: a slow or vanished sender is not the fault of the server
        raise InvalidRequest(
            _("the body did not arrive whole within %(seconds)s s: send it again", seconds=f"{BODY_WITHIN_S:g}")
        ) from None


async def read_form(request: web.Request, *, max_fields: int) -> MultiDict[str]:
    """Read a form's fields (RFC 6749 appendix B), the empty and the repeated ones too.

    Raises as ``read_body``, and ``InvalidRequest`` for what is not such a form in UTF-8 or has more fields.
    """
    body = await read_body(request, FORM)
    try:
        return MultiDict(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(body),
                errors="strict",
                max_num_fields=max_fields,
            )
        )
    except (UnicodeError, ValueError):
        raise InvalidRequest(
            _(
                "the body is not a valid form: send %(content_type)s in UTF-8, at most %(most)s fields",
                content_type=FORM,
                most=max_fields,
            )
        ) from None
