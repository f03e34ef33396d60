"""The sandbox's own endpoints under ``/_sandbox/``: what it counted, faults on demand, its clock, its tokens.

They are for tests and rehearsals on this machine. They have no password, so a guard stands in front: only loopback
peers, only under a loopback name (a page that rebinds its own name to 127.0.0.1 comes with that name), and never from
another origin (any page in a browser on this machine can send a POST here).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox import answers
from app.sandbox.clock import Clock
from app.sandbox.faults import Faults, Kind
from app.sandbox.gateway import Gateway
from app.sandbox.state import Standing, State

_MAX_DELAY_S: Final = 300
_MAX_OFFSET_S: Final = 10 * 365 * 24 * 3600

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Order = TypeVar("Order", bound=msgspec.Struct)


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/faults``."""

    action: str
    fault: Kind
    code: str = ""
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY_S)] = 0.5
    times: Annotated[int, msgspec.Meta(ge=1)] | None = 1


class ReleaseOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/release``."""

    action: str


class ClockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/clock``."""

    offset_s: Annotated[float, msgspec.Meta(ge=-_MAX_OFFSET_S, le=_MAX_OFFSET_S)]


class Control:
    """The handlers."""

    def __init__(self, gateway: Gateway, faults: Faults, clock: Clock, state: State) -> None:
        self._gateway = gateway
        self._faults = faults
        self._clock = clock
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        """Return the table of endpoints, each behind the guard."""
        return [
            web.route(method, f"/_sandbox/{path}", _guarded(handler))
            for method, path, handler in (
                ("GET", "calls", self.calls),
                ("DELETE", "calls", self.reset_calls),
                ("GET", "faults", self.faults),
                ("POST", "faults", self.add_fault),
                ("DELETE", "faults", self.clear_faults),
                ("POST", "release", self.release),
                ("GET", "clock", self.clock),
                ("POST", "clock", self.move_clock),
                ("GET", "tokens", self.tokens),
            )
        ]

    async def calls(self, _: web.Request) -> web.Response:
        """Return the calls counted, per action and result (``OK``, the error's code, or ``Dropped``)."""
        return _json(self._gateway.calls)

    async def reset_calls(self, _: web.Request) -> web.Response:
        """Count from nought again."""
        self._gateway.calls.clear()
        return _json({})

    async def faults(self, _: web.Request) -> web.Response:
        """List the active faults, and how many calls of each action are held now."""
        active = [
            {"id": f.id, "action": f.action, "fault": f.kind, "code": f.code, "delay_s": f.delay_s, "times": f.times}
            for f in self._faults.active
        ]
        return _json({"faults": active, "held": {action: self._faults.held(action) for action in ACTIONS}})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Order a fault."""
        order = await _read(request, FaultOrder)
        _check_action(order.action)
        if order.fault is Kind.ERROR:
            try:
                answers.fault_of(order.code)
            except KeyError:
                raise _bad(f"code {order.code!r} is none of the cloud's") from None
        return _json(
            {
                "id": self._faults.add(
                    order.action, order.fault, code=order.code, delay_s=order.delay_s, times=order.times
                )
            }
        )

    async def clear_faults(self, _: web.Request) -> web.Response:
        """Forget every fault and release every held call."""
        self._faults.clear()
        return _json({})

    async def release(self, request: web.Request) -> web.Response:
        """Release the calls of one action that are held now."""
        order = await _read(request, ReleaseOrder)
        _check_action(order.action)
        return _json({"released": self._faults.release(order.action)})

    async def clock(self, _: web.Request) -> web.Response:
        """Tell the sandbox's time."""
        return _json({"now_ms": self._clock.now_ms(), "offset_s": self._clock.offset_s})

    async def move_clock(self, request: web.Request) -> web.Response:
        """Set the offset to wall time, for gateway and broker."""
        self._clock.move((await _read(request, ClockOrder)).offset_s)
        return await self.clock(request)

    async def tokens(self, _: web.Request) -> web.Response:
        """List the tokens it holds, by their SHA-256."""
        now_ms = self._clock.now_ms()
        return _json(
            [
                {
                    "sha256": token.sha256,
                    "type": token.type,
                    "resources": token.resources,
                    "expires_at_ms": token.expires_at_ms,
                    "revoked": self._state.standing(token, now_ms) is Standing.REVOKED,
                }
                for token in self._state.tokens.values()
            ]
        )


def _guarded(handler: Handler) -> Handler:
    async def guard(request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if not _is_loopback(request.remote or "") or not _is_loopback(_host_of(request.host)):
            raise web.HTTPForbidden(text="the sandbox's controls are for this machine alone, by a loopback name\n")
        if origin is not None and origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="the sandbox's controls are not for pages of another origin\n")
        return await handler(request)

    return guard


def _host_of(header: str) -> str:
    """Return the host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _bad(why: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=msgspec.json.encode({"error": why}).decode(), content_type="application/json")


async def _read(request: web.Request, kind: type[Order]) -> Order:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(str(error)) from None


def _check_action(action: str) -> None:
    if action not in ACTIONS:
        raise _bad(f"action {action!r} is none of {', '.join(ACTIONS)}")
