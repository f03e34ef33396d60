"""The JSON API for operators' programs: what all its endpoints have in common.

An endpoint is a function of an ``AdminRequest`` and, if it takes any, of a ``query`` or a ``body``; each is a struct,
and so is what it returns. By these types a request is read, an answer written and the API described (``web.openapi``).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Annotated, ClassVar, Final, Generic, TypeVar

import msgspec
from aiohttp import web

from app.errors import InvalidToken, NoToken
from app.logs import REQUEST_ID
from app.model.api_keys import ApiKey, Right
from app.model.secrets import Secret
from app.model.text import _
from app.web.bearer import read_bearer
from app.web.caller_limits import limited_page
from app.web.client_address import client_address
from app.web.conversion import RequestModel
from app.web.middleware import add_log_fields
from app.web.operator_share import run_within
from app.web.request_input import JSON, has_body, read_body, receive_body
from app.web.route import SERVICES, Access, AdminRequest, Admitted, Answer, Route

MAX_LIMIT: Final = 200

_Item = TypeVar("_Item")


class ApiAnswer(msgspec.Struct, frozen=True):
    """What an endpoint returns; ``location`` is the address of what was made, if anything was."""

    status: ClassVar[int] = 200

    @property
    def location(self) -> str:
        """Where to look at it."""
        return ""


class Paging(RequestModel, frozen=True):
    """Which part of a list: up to ``limit`` from ``cursor`` on, the ``next_cursor`` of the page before."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = 50
    cursor: str = ""


class ApiPage(ApiAnswer, Generic[_Item], frozen=True):
    """Part of a list. It may be short, even empty, and not the last: that one's ``next_cursor`` is null."""

    items: list[_Item]
    next_cursor: str | None


async def _admit(request: web.Request, route: Route) -> Admitted:
    """Authenticate first, then read: a caller without a key learns nothing about the API.

    Raises ``NoToken``, ``InvalidToken``, ``TooManyFailures``, ``InsufficientScope``, ``InvalidRequest``, ``TooLarge``
    and ``Unavailable``.
    """
    key = await _verify_key(request, route.access.right)
    add_log_fields(request, who=key.actor_name)
    admin_request = AdminRequest(key, request.match_info, request.app[SERVICES], REQUEST_ID.get(""))
    if "body" not in route.types:
        return Admitted(request, admin_request, query=request.query)
    body = await read_body(request, JSON) if has_body(request) else b"{}"
    return Admitted(request, admin_request, query=request.query, body=body)


async def _verify_key(request: web.Request, right: Right) -> ApiKey:
    """Return the API key that the request carries, if it has ``right`` (RFC 6750 section 2.1)."""
    services = request.app[SERVICES]
    authorization = request.headers.getall("Authorization", [])
    if bearer := read_bearer(authorization):
        with services.refusals.of(bearer, request_id=REQUEST_ID.get("")):
            return await services.key_check.verify(bearer, right, address=client_address(request))
    if authorization:
        raise InvalidToken(_("only the Bearer scheme is supported here: send an API key"))
    raise NoToken(_("send an API key: Authorization: Bearer mts_..."))


async def _run(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer within the share of operators if the request carries a valid key, else of visitors.

    The key is verified before a place is taken, or strangers with wrong keys could take them all. A valid key is
    verified again when its turn comes: it may have been removed meanwhile.
    """
    services = request.app[SERVICES]
    if not await services.visitors_share.count(partial(_has_valid_key, request)):
        return await run_within(services.visitors_share, answer)
    if request.can_read_body:
        await receive_body(request, JSON)
    return await run_within(services.operators_share, answer)


async def _has_valid_key(request: web.Request) -> bool:
    """Return whether the request carries a valid key, whatever its rights. Raises ``Unavailable``."""
    services, authorization = request.app[SERVICES], request.headers.getall("Authorization", [])
    if len(authorization) != 1 or (bearer := read_bearer(authorization)) is None:
        return False
    with services.refusals.of(bearer, request_id=REQUEST_ID.get("")):
        return await services.key_check.is_valid(bearer)


def _limit(admitted: Admitted) -> AbstractAsyncContextManager[None]:
    """Make few lists at once, and none for long; what changes something waits for no list. Raises ``Unavailable``."""
    if admitted.body is not None or admitted.http.method != "GET":
        return nullcontext()
    return limited_page(admitted.http, admitted.handler_request.caller.actor_name)


async def _render(_request: web.Request, answer: ApiAnswer) -> web.Response:
    headers = {"Cache-Control": "no-store"} | ({"Location": answer.location} if answer.location else {})
    body = msgspec.json.encode(answer, enc_hook=_encode)
    return web.Response(body=body, content_type=JSON, status=answer.status, headers=headers)


def _encode(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, str):
        return str(value)  # a Text, which is more than a string
    raise TypeError(f"{type(value).__name__} cannot be part of an answer")


API_ADMIN: Final = Access(admit=_admit, render=_render, run=_run, limit=_limit, right=Right.ADMIN)
"""For callers with an API key that has the right ``admin``."""
