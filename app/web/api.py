"""The JSON API for operators' programs: what all its endpoints have in common.

An endpoint is a function of an ``ApiCall`` and, if it takes any, of a ``query`` or a ``body``; each is a struct, and so
is what it returns. By these types a request is read, an answer written and the API described (``web.openapi``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar, get_type_hints

import msgspec
from aiohttp import web

from app.errors import InvalidRequest
from app.logs import REQUEST_ID
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.secrets import Secret
from app.service.audit import AuditLog
from app.service.jobs import Jobs
from app.service.registry import Registry
from app.service.revocations import Revocations
from app.web.bearer import require
from app.web.forms import read_body
from app.web.middleware import LOG_FIELDS

REGISTRY: Final = web.AppKey("registry", Registry)
REVOCATIONS: Final = web.AppKey("revocations", Revocations)
JOBS: Final = web.AppKey("jobs", Jobs)
AUDIT_LOG: Final = web.AppKey("trail", AuditLog)

JSON: Final = "application/json"
MAX_LIMIT: Final = 200

_QUOTED: Final = re.compile(r""" ['"].*['"]""", re.DOTALL)
"""What was sent, as Python quotes it: in double quotes if it holds a single one."""

_Item = TypeVar("_Item")


class RequestModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an endpoint takes, in the URL or as JSON. Unknown fields are refused: they may be meant to narrow."""


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


@dataclass(frozen=True, slots=True)
class ApiCall:
    """Who calls, as the audit names them, and what for: the variable parts of the path."""

    app: web.Application
    actor: Actor
    path: Mapping[str, str]

    @property
    def registry(self) -> Registry:
        """The registry of devices."""
        return self.app[REGISTRY]

    @property
    def revocations(self) -> Revocations:
        """Tokens and what is done about them."""
        return self.app[REVOCATIONS]


@dataclass(frozen=True)
class Endpoint:
    """One address of the API for one method."""

    method: str
    path: str
    function: Callable[..., Awaitable[ApiAnswer]]

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """The types of ``query``, ``body`` and ``return``, as far as it has them."""
        return get_type_hints(self.function, include_extras=True)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request that carries an API key with ``admin`` (RFC 6750 section 2.1).

        Raises what ``require`` and the function raise, and ``InvalidRequest`` for what does not fit its types.
        """
        key = await require(request, Right.ADMIN)
        told: dict[str, object] = {"who": key.actor_name}
        request[LOG_FIELDS] = told
        asked = {"query": _read_query(request, self.types.get("query", RequestModel))}
        if "body" in self.types:
            asked["body"] = await _read_json(request, self.types["body"])
        taken = {name: value for name, value in asked.items() if name in self.types}
        answer = await self.function(
            ApiCall(request.app, key.as_actor(REQUEST_ID.get("")), request.match_info), **taken
        )
        headers = {"Cache-Control": "no-store"} | ({"Location": answer.location} if answer.location else {})
        body = msgspec.json.encode(answer, enc_hook=_show)
        return web.Response(body=body, content_type=JSON, status=answer.status, headers=headers)


def _read_query(request: web.Request, type_: type[RequestModel]) -> RequestModel:
    """Read the parameters in the URL: each at most once, and none that the endpoint does not know."""
    if len(set(request.query)) != len(request.query):
        raise InvalidRequest("a parameter was sent more than once")
    try:
        return msgspec.convert(dict(request.query), type_, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"in the URL: {_complaint(error, type_)}") from None


async def _read_json(request: web.Request, type_: type[RequestModel]) -> RequestModel:
    """Read the body as JSON (RFC 8259); none at all is an empty object. Raises as ``read_body``, ``InvalidRequest``."""
    body = await read_body(request, JSON) if request.can_read_body else b"{}"
    try:
        asked = msgspec.json.decode(body, type=type_, dec_hook=_hide)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"in the body: {_complaint(error, type_)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("the body is no JSON in UTF-8") from None
    json.loads(body, object_pairs_hook=_once_each)  # it is known to be JSON by now, and not deep
    return asked


def _once_each(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        # Two readers might each take another one: the proxy that checks, and we who act.
        raise InvalidRequest("in the body: a field was sent more than once")


def _complaint(error: msgspec.ValidationError, type_: type[RequestModel]) -> str:
    """Say what is wrong without what was sent: a token put into the wrong place shall not get into the log."""
    text = str(error)
    if "unknown field" in text:
        return f"something unknown; this takes {', '.join(type_.__struct_fields__) or 'nothing'}"
    return _QUOTED.sub("", text)


def _hide(type_: type, value: object) -> object:
    if issubclass(type_, Secret) and isinstance(value, str):
        return type_(value)
    raise ValueError("Expected a text")


def _show(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is nothing an answer can hold")
