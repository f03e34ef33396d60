"""Reading an API key from a request (RFC 6750 section 2.1), and asking it for a right."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.errors import InvalidRequest, InvalidToken, NoToken
from app.logs import REQUEST_ID
from app.model.api_keys import ApiKey, Right
from app.model.secrets import ApiKeyText
from app.service.api_keys import Bearer, KeyCheck
from app.service.refusals import Refusals

KEY_CHECK: Final = web.AppKey("key_check", KeyCheck)
REFUSALS: Final = web.AppKey("refusals", Refusals)


def read_bearer(request: web.Request) -> Bearer | None:
    """Return the Bearer key of the Authorization header, or None if there is none or another scheme.

    Raises ``InvalidRequest`` for two headers: each reader might take another one.
    """
    headers = request.headers.getall("Authorization", [])
    if len(headers) > 1:
        raise InvalidRequest("authenticate in one way, not in two at once")
    scheme, _, text = headers[0].partition(" ") if headers else ("", "", "")
    return Bearer(ApiKeyText(text.strip())) if scheme.lower() == "bearer" else None


async def require(request: web.Request, right: Right) -> ApiKey:
    """Return the API key that the request carries, if it has ``right``.

    Raises ``NoToken``, ``InvalidToken``, ``InsufficientScope``, ``InvalidRequest`` and ``Unavailable``.
    """
    bearer = read_bearer(request)
    if bearer is not None:
        with request.app[REFUSALS].of(bearer, request_id=REQUEST_ID.get("")):
            return await request.app[KEY_CHECK].verify(bearer, right)
    if "Authorization" in request.headers:
        raise InvalidToken("only the Bearer scheme is served here: send an API key")
    raise NoToken("send an API key: Authorization: Bearer mts_...")
