"""What all pages of the console have in common.

A page is a function of a ``Visit`` and, if it takes any, of a ``query`` or a ``form``, each a struct by whose type a
request is read. It returns what to show, where to go next, or a file. A form that is refused is shown again as it was
filled in, by the function ``again`` that showed it first: if it takes ``form``, it gets what was typed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, get_type_hints
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from aiohttp import web
from multidict import MultiDict, MultiMapping

from app.cloud.client import CloudClient
from app.errors import Internal, Refusal, Unavailable
from app.logs import REQUEST_ID
from app.model.actors import Actor
from app.model.operators import Operator, OperatorRole
from app.model.policy import Policy
from app.service.audit import AuditLog
from app.service.cloud_admin import CloudAdmin
from app.service.jobs import Jobs
from app.service.policies import Policies
from app.service.registry import Registry
from app.service.revocations import Revocations
from app.store.sealing import KeyRing
from app.web.api import AUDIT_LOG, JOBS, REGISTRY, REVOCATIONS, RequestModel
from app.web.console import pending_form
from app.web.console.forms import convert, filled, read_fields
from app.web.console.guard import REFRESH_HEADER, check_role, check_same_origin, find_operator
from app.web.console.rendering import DONE, PREFIX, PageContent, render
from app.web.middleware import CLOCK, add_log_fields

KEYS: Final = web.AppKey("carried_keys", KeyRing)
CLOUD: Final = web.AppKey("cloud", CloudClient)
CLOUD_ADMIN: Final = web.AppKey("cloud_desk", CloudAdmin)
POLICIES: Final = web.AppKey("policies", Policies)

ANSWER_WITHIN_S: Final = 8.0
"""A page waits no longer for anything; a balancer gives up soon after."""

PAGES_AT_ONCE: Final = 6
PAGES_OF_ONE_AT_ONCE: Final = 2

_MAX_ADDRESS_CHARS: Final = 2000


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to go next, and what to say there (see ``DONE``)."""

    to: str
    done: str = ""
    query: Mapping[str, str] | None = None

    @property
    def location(self) -> str:
        """The address, with its parameters."""
        parameters = {**(self.query or {}), **({DONE: self.done} if self.done else {})}
        return f"{self.to}?{urlencode(parameters)}" if parameters else self.to


@dataclass(frozen=True, slots=True)
class Download:
    """A file to be kept, in parts as they are made: each gets as long as it takes.

    One that breaks off is seen to have done so, for its end is missing.
    """

    parts: AsyncIterator[bytes]
    content_type: str
    filename: str

    def response(self, place: AbstractAsyncContextManager[None]) -> web.Response:
        """Return the answer, not yet begun; it is made in ``place``."""

        async def parts() -> AsyncIterator[bytes]:
            async with place:
                async for part in self.parts:
                    yield part

        headers = {
            "Content-Type": self.content_type,
            "Content-Disposition": f'attachment; filename="{self.filename}"',
        }
        return web.Response(body=parts(), headers=headers)


class PageLimiter:
    """How many pages an instance makes at a time, in all and for one operator; who comes next waits.

    A search may look at a million tokens, and devices share the instance with it: nobody who holds down the reload key,
    or means harm, takes more of it than these places.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(PAGES_AT_ONCE)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, operator: Operator) -> AsyncIterator[None]:
        """Hold one place for an operator."""
        own = self._own.setdefault(operator.name, asyncio.Semaphore(PAGES_OF_ONE_AT_ONCE))
        async with own, self._all:
            yield


PAGE_LIMITER: Final = web.AppKey("places", PageLimiter)


@dataclass(frozen=True, slots=True)
class Visit:
    """Who looks at a page, and at which: the variable parts of its path."""

    app: web.Application
    operator: Operator
    path: Mapping[str, str]

    @property
    def actor(self) -> Actor:
        """The operator as the audit names them."""
        return self.operator.as_actor(REQUEST_ID.get(""))

    @property
    def registry(self) -> Registry:
        """The registry of devices."""
        return self.app[REGISTRY]

    @property
    def revocations(self) -> Revocations:
        """Tokens and what is done about them."""
        return self.app[REVOCATIONS]

    @property
    def jobs(self) -> Jobs:
        """Large revocations."""
        return self.app[JOBS]

    @property
    def audit_log(self) -> AuditLog:
        """The audit trail."""
        return self.app[AUDIT_LOG]

    @property
    def cloud(self) -> CloudClient:
        """The cloud's API, within the quotas."""
        return self.app[CLOUD]

    @property
    def cloud_admin(self) -> CloudAdmin:
        """What operators do at the cloud by hand."""
        return self.app[CLOUD_ADMIN]

    @property
    def policy(self) -> Policy:
        """The policy in force now."""
        return self.app[POLICIES]()

    @property
    def now_ms(self) -> int:
        """The time, in Unix ms."""
        return self.app[CLOCK].now_ms()


@dataclass(frozen=True)
class PageRoute:
    """One address of the console for one method, and the least role that may use it."""

    method: str
    path: str
    function: Callable[..., Awaitable[PageContent | Redirect | Download]]
    role: OperatorRole
    again: Callable[..., Awaitable[PageContent]] | None = None
    """Shows the form that sends here: a page's function, which may take ``form``, what was typed into it."""

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """The types of ``query`` and ``form``, as far as the function has them."""
        return get_type_hints(self.function, include_extras=True)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of somebody who is signed in; whoever is not is asked to, and loses nothing.

        Raises ``Forbidden`` for a form of another site and for a role that is not enough, and what the function raises.
        """
        fields: MultiMapping[str] = MultiDict()
        if self.method == "POST":
            check_same_origin(request)
            fields = await read_fields(request)
        operator = await find_operator(request)
        if operator is None:
            return self._ask_to_sign_in(request, fields)
        add_log_fields(request, who=operator.actor_name)
        check_role(operator, self.role)
        if self.method == "POST":
            fields = pending_form.fields_of(
                request.app[KEYS], request.path, MultiDict(fields), request.app[CLOCK].now_ms()
            )
        visit = Visit(request.app, operator, request.match_info)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S), request.app[PAGE_LIMITER].of(operator):
                answer = await self._call(visit, request, fields)
        except TimeoutError:
            raise Unavailable(f"this took longer than {ANSWER_WITHIN_S:g} s: try again") from None
        if isinstance(answer, Redirect):
            return see_other(answer.location)
        if isinstance(answer, Download):
            return answer.response(request.app[PAGE_LIMITER].of(operator))
        return render(request, answer)

    async def _call(
        self, visit: Visit, request: web.Request, fields: MultiMapping[str]
    ) -> PageContent | Redirect | Download:
        try:
            if self.method == "POST":
                form_type = self.types.get("form", RequestModel)
                form = convert(fields, form_type)
                return await self.function(visit, **({"form": form} if "form" in self.types else {}))
            asked = MultiDict(request.query)
            done = asked.pop(DONE, "")
            query = convert(asked, self.types.get("query", RequestModel))
            shown = await self.function(visit, **({"query": query} if "query" in self.types else {}))
        except Refusal as refusal:
            if self.again is None or isinstance(refusal, Internal):
                raise
            # Also where a part is away: what was typed is not lost. If the form needs that part too, it says so itself.
            add_log_fields(request, error=refusal.code, description=refusal.description, cause=refusal.cause)
            types = get_type_hints(self.again, include_extras=True)
            given: dict[str, Any] = {"query": convert(MultiDict(), types["query"])} if "query" in types else {}
            if "form" in types:
                given["form"] = filled(fields, self.types.get("form", RequestModel))
            shown = await self.again(visit, **given)
            return replace(shown, status=refusal.status, context={**shown.context, "problem": refusal})
        if isinstance(shown, PageContent):
            return replace(shown, context={"done": done, **shown.context})
        return shown

    def _ask_to_sign_in(self, request: web.Request, fields: MultiMapping[str]) -> web.StreamResponse:
        if self.method == "POST":
            plain = filled(fields, self.types.get("form", RequestModel))
            sealed = pending_form.seal(request.app[KEYS], request.path, fields, request.app[CLOCK].now_ms(), plain)
            return render(
                request, PageContent.of("sign_in.html", status=401, to=f"{PREFIX}/", carried=sealed, ended=True)
            )
        if REFRESH_HEADER in request.headers:
            # A script asks: a redirect would put the sign-in page into the middle of the one that is there.
            return web.Response(status=401)
        to = request.path_qs if len(request.path_qs) <= _MAX_ADDRESS_CHARS else request.path
        return see_other(Redirect(f"{PREFIX}/sign-in", query={"to": to} if to != f"{PREFIX}/" else None).location)


def see_other(location: str) -> web.Response:
    """Send the browser on with a GET (RFC 9110 section 15.4.4), so that a reload sends no form again."""
    return web.Response(status=303, headers={"Location": location})
