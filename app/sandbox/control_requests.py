"""The requests to the sandbox's own endpoints: who may send them, and their bodies.

The endpoints have no password. Only loopback peers may use them, only under a loopback host name (a page that rebinds
its own name to 127.0.0.1 sends that name), and never from another origin (any page in a browser on this machine can
send a POST here).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox.call_meter import QuotaWindow
from app.sandbox.faults import EVERY_ACTION, FaultKind

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Order = TypeVar("Order", bound=msgspec.Struct)

_MAX_DELAY_S: Final = 300
_MAX_FAULT_S: Final = 24 * 3600
_MAX_BLOCK_S: Final = 24 * 3600
_MAX_OFFSET_S: Final = 10 * 365 * 24 * 3600

_Qps = Annotated[int, msgspec.Meta(ge=0)]


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/faults``."""

    action: str
    """One of the catalog, or ``*`` for all."""
    fault: FaultKind
    code: str = ""
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY_S)] = 0.5
    times: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    """How many calls it happens to; ``null`` for all until it ends. The default is one; all with a ``rate``, with
    ``for_s`` and for a jitter."""
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """The share of calls that it happens to, chosen by a random generator with ``seed``."""
    seed: int = 0
    for_s: Annotated[float, msgspec.Meta(gt=0, le=_MAX_FAULT_S)] | None = None
    """After how many seconds it ends; ``null`` for when it is cleared."""

    def effective_times(self) -> int | None:
        """Return ``times`` or its default."""
        if isinstance(self.times, msgspec.UnsetType):
            happens_once = self.rate == 1 and self.for_s is None and self.fault is not FaultKind.JITTER
            return 1 if happens_once else None
        return self.times

    def check_action(self) -> None:
        """Raise ``web.HTTPBadRequest`` for an action that this fault cannot happen to."""
        if self.fault is FaultKind.JITTER and self.action != EVERY_ACTION:
            raise bad_order("the network delays every request: use the action '*'")
        if self.action != EVERY_ACTION:
            require_known_action(self.action)


class ReleaseOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/release``."""

    action: str


class LimitsOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/limits``: a preset first, then the other fields; what is absent stays as it is."""

    preset: Literal["v2", "v3", "off"] | None = None
    qps: dict[str, _Qps | None] = {}
    egress_qps: _Qps | msgspec.UnsetType | None = msgspec.UNSET
    block_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_BLOCK_S)] | None = None
    window: QuotaWindow | None = None


class BlockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/blocks``; the default of ``for_s`` is ``block_s`` of the limits."""

    address: str
    for_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_BLOCK_S)] | None = None


class GatewayOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/gateway``."""

    down_s: Annotated[float, msgspec.Meta(gt=0, le=_MAX_DELAY_S)]
    """For how long connections to the API's port are refused."""


class BrokerOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/broker``."""

    restart: Literal[True]
    down_s: Annotated[float, msgspec.Meta(ge=0, le=_MAX_DELAY_S)] = 0.0
    """For how long new connections are dropped."""
    forget_sessions: bool = False
    """Whether persistent sessions are lost too, with their subscriptions and pending messages."""


class ClockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_sandbox/clock``."""

    offset_s: Annotated[float, msgspec.Meta(ge=-_MAX_OFFSET_S, le=_MAX_OFFSET_S)]


async def read_order(request: web.Request, kind: type[Order]) -> Order:
    """Read the body of a request. Raises ``web.HTTPBadRequest`` for one that is not a ``kind``."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_order(str(error)) from None


def bad_order(reason: str) -> web.HTTPBadRequest:
    """Return the refusal of an order, with its reason as JSON."""
    return web.HTTPBadRequest(text=msgspec.json.encode({"error": reason}).decode(), content_type="application/json")


def require_known_action(action: str) -> None:
    """Raise ``web.HTTPBadRequest`` for an action that the catalog does not have."""
    if action not in ACTIONS:
        raise bad_order(f"unknown action {action!r}: use one of {', '.join(ACTIONS)}")


def loopback_only(handler: RequestHandler) -> RequestHandler:
    """Return ``handler`` with the checks of the module's docstring before it."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if not _is_loopback(request.remote or "") or not _is_loopback(_host_name(request.host)):
            reason = "the sandbox's controls serve this machine only: use a loopback address or localhost\n"
            raise web.HTTPForbidden(text=reason)
        if origin is not None and origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="the sandbox's controls do not serve pages of another origin\n")
        return await handler(request)

    return guarded


def _host_name(header: str) -> str:
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
