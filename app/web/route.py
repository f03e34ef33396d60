"""A row of the route table, and the one way in which every request is answered.

A request is admitted (its caller authenticated and its input read, in the order of its kind), its input becomes the
struct that the handler takes, and what the handler returns is rendered. OAuth, API and console differ by data alone:
by their ``Access``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, get_type_hints

from aiohttp import web
from multidict import MultiMapping

from app.container import Services
from app.errors import Refusal
from app.model.actors import Actor
from app.model.api_keys import ApiKey, Right
from app.model.operators import Operator, OperatorRole
from app.web.conversion import RequestModel, convert_fields, convert_json

SERVICES: Final = web.AppKey("services", Services)

Answer = Callable[[], Coroutine[Any, Any, web.StreamResponse]]
"""Answers one request."""

_UNLIMITED: Final = nullcontext()


async def _run_at_once(_request: web.Request, answer: Answer) -> web.StreamResponse:
    return await answer()


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """What a handler of the API or the console gets: who calls, the variable parts of the path, and the services."""

    caller: ApiKey | Operator
    path: Mapping[str, str]
    services: Services
    request_id: str

    @property
    def actor(self) -> Actor:
        """The caller as the audit names them."""
        return self.caller.as_actor(self.request_id)

    @property
    def now_ms(self) -> int:
        """The time, in Unix ms."""
        return self.services.clock.now_ms()


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may be answered: what its handler gets, and what was sent, if its kind of route reads that."""

    http: web.Request
    handler_request: Any
    query: MultiMapping[str] | None = None
    form: MultiMapping[str] | None = None
    body: bytes | None = None
    """JSON."""


class AnsweredEarly(Exception):
    """The answer to a request that is not admitted, and not refused either: it is asked to sign in first."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True, slots=True)
class Access:
    """How requests of one kind are admitted and answered; ``right`` or ``role`` is the least that the caller needs.

    ``run`` answers a request when its turn comes; a body may be received before, so that no place is held meanwhile.
    ``limit`` bounds how many are handled at once, and for how long. ``recover`` makes another answer of a refusal.
    """

    admit: Callable[[web.Request, Route], Awaitable[Admitted]]
    render: Callable[[web.Request, Any], Awaitable[web.StreamResponse]]
    right: Right = Right.ADMIN
    role: OperatorRole = OperatorRole.ADMIN
    run: Callable[[web.Request, Answer], Awaitable[web.StreamResponse]] = _run_at_once
    limit: Callable[[Admitted], AbstractAsyncContextManager[None]] = lambda _: _UNLIMITED
    recover: Callable[[Refusal, Admitted, Route], Awaitable[Any]] | None = None


@dataclass(frozen=True)
class Route:
    """One address for one method, such as ``GET /admin/tokens``.

    ``handler`` takes the request of its kind and what it asks for of ``query``, ``form`` and ``body``, each a struct.
    ``on_refused`` shows a page again whose form was refused: a handler too, whose ``form`` is what was typed.
    """

    address: str
    handler: Callable[..., Awaitable[Any]]
    access: Access
    on_refused: Callable[..., Awaitable[Any]] | None = None

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.address.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path, with its variable parts in braces."""
        return self.address.partition(" ")[2]

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """The types of the handler's parameters and of what it returns."""
        return get_type_hints(self.handler, include_extras=True)

    @cached_property
    def types_on_refused(self) -> Mapping[str, Any]:
        """The same of ``on_refused``."""
        return get_type_hints(self.on_refused, include_extras=True) if self.on_refused else {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request when its turn comes. Raises ``Refusal``."""
        return await self.access.run(request, partial(self._answer, request))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            admitted = await self.access.admit(request, self)
        except AnsweredEarly as early:
            return early.response
        async with self.access.limit(admitted):
            try:
                result = await self.handler(admitted.handler_request, **self._arguments(admitted))
            except Refusal as refusal:
                if self.access.recover is None:
                    raise
                result = await self.access.recover(refusal, admitted, self)
        return await self.access.render(request, result)

    def _arguments(self, admitted: Admitted) -> dict[str, RequestModel]:
        """Convert all that was sent, also what the handler does not take: it is refused. Raises ``InvalidRequest``."""
        arguments: dict[str, RequestModel] = {}
        if admitted.query is not None:
            arguments["query"] = convert_fields(admitted.query, self.model("query"))
        if admitted.form is not None:
            arguments["form"] = convert_fields(admitted.form, self.model("form"))
        if admitted.body is not None:
            arguments["body"] = convert_json(admitted.body, self.model("body"))
        for name in arguments.keys() - self.types.keys():
            del arguments[name]
        return arguments

    def model(self, name: str) -> type[RequestModel]:
        """Return the struct that the handler takes as ``name``; one without fields where it takes none."""
        model: type[RequestModel] = self.types.get(name, RequestModel)
        return model


async def _admit_all(request: web.Request, _: Route) -> Admitted:
    return Admitted(request, request)


async def _send(_request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    return response


OPEN: Final = Access(admit=_admit_all, render=_send)
"""For everyone: the handler gets the HTTP request itself and makes the answer."""
