"""The sandbox's own endpoints under ``/_sandbox/``: what it counted, faults on demand, quotas, its clock, its tokens.

=========  ==============================  ===========================================================================
calls      GET, DELETE                     counts per action and result; DELETE counts from nought, peaks as well
faults     GET, POST ``FaultOrder``,       what goes wrong with calls (``faults.Kind``), by number of ``times`` or at
           DELETE                          a ``rate``; DELETE ends all and releases what is held
release    POST ``ReleaseOrder``           lets the held calls of one action go on
limits     GET, POST ``LimitsOrder``       quotas: ``{"preset": "v3"}``, ``{"qps": {"ApplyToken": 500}, "egress_qps":
                                           300}``, ``null`` for none; GET also tells for each account and action and
                                           for each address the most calls within any second (``peak``) and how many
                                           were ``refused``, and which addresses are blocked
blocks     POST ``BlockOrder``, DELETE     blocks an address, as the cloud does beyond 300 calls a second; DELETE lets
                                           all in again
broker     POST ``BrokerOrder``            restarts the broker: every connection is lost
clock      GET, POST ``ClockOrder``        the time of gateway and broker
tokens     GET                             what is held, by SHA-256
=========  ==============================  ===========================================================================

They are for tests and rehearsals on this machine, and ``guard`` stands in front.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TypeVar

import msgspec
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox import answers
from app.sandbox.clock import Clock
from app.sandbox.faults import EVERY_ACTION, Faults, Kind
from app.sandbox.gateway import Gateway
from app.sandbox.guard import loopback_only
from app.sandbox.limits import PRESETS, Meter, Throttle
from app.sandbox.listener import Listener
from app.sandbox.orders import BlockOrder, BrokerOrder, ClockOrder, FaultOrder, LimitsOrder, ReleaseOrder
from app.sandbox.state import Standing, State

Order = TypeVar("Order", bound=msgspec.Struct)


class Control:
    """The handlers."""

    def __init__(
        self, gateway: Gateway, throttle: Throttle, faults: Faults, clock: Clock, state: State, listener: Listener
    ) -> None:
        self._gateway = gateway
        self._throttle = throttle
        self._faults = faults
        self._clock = clock
        self._state = state
        self._listener = listener

    def routes(self) -> list[web.RouteDef]:
        """Return the table of endpoints, each behind the guard."""
        return [
            web.route(method, f"/_sandbox/{path}", loopback_only(handler))
            for method, path, handler in (
                ("GET", "calls", self.calls),
                ("DELETE", "calls", self.reset_calls),
                ("GET", "faults", self.faults),
                ("POST", "faults", self.add_fault),
                ("DELETE", "faults", self.clear_faults),
                ("POST", "release", self.release),
                ("GET", "limits", self.limits),
                ("POST", "limits", self.set_limits),
                ("POST", "blocks", self.block),
                ("DELETE", "blocks", self.unblock),
                ("POST", "broker", self.restart_broker),
                ("GET", "clock", self.clock),
                ("POST", "clock", self.move_clock),
                ("GET", "tokens", self.tokens),
            )
        ]

    async def calls(self, _: web.Request) -> web.Response:
        """Return the calls counted, per action and result (``OK``, the error's code, ``Dropped`` or ``Blocked``)."""
        return _json(self._gateway.calls)

    async def reset_calls(self, _: web.Request) -> web.Response:
        """Count from nought again."""
        self._gateway.calls.clear()
        self._throttle.reset()
        return _json({})

    async def faults(self, _: web.Request) -> web.Response:
        """List the active faults, and how many calls of each action are held now."""
        active = [
            {
                "id": fault.id,
                "action": fault.action,
                "fault": fault.kind,
                "code": fault.code,
                "delay_s": fault.delay_s,
                "times": fault.times,
                "rate": fault.rate,
            }
            for fault in self._faults.active
        ]
        return _json({"faults": active, "held": {action: self._faults.held(action) for action in ACTIONS}})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Order a fault."""
        order = await _read(request, FaultOrder)
        if order.action != EVERY_ACTION:
            _check_action(order.action)
        if order.fault is Kind.ERROR:
            try:
                answers.fault_of(order.code)
            except KeyError:
                raise _bad(f"code {order.code!r} is none of the cloud's") from None
        fault_id = self._faults.add(
            order.action,
            order.fault,
            code=order.code,
            delay_s=order.delay_s,
            times=order.how_often(),
            rate=order.rate,
            seed=order.seed,
        )
        return _json({"id": fault_id})

    async def clear_faults(self, _: web.Request) -> web.Response:
        """Forget every fault and release every held call."""
        self._faults.clear()
        return _json({})

    async def release(self, request: web.Request) -> web.Response:
        """Release the calls of one action that are held now."""
        order = await _read(request, ReleaseOrder)
        _check_action(order.action)
        return _json({"released": self._faults.release(order.action)})

    async def limits(self, _: web.Request) -> web.Response:
        """Tell the quotas, and what was counted under each."""
        limits, blocked = self._throttle.limits, self._throttle.blocked_for_s()
        return _json(
            {
                "qps": {action: limits.qps.get(action) for action in ACTIONS},
                "egress_qps": limits.egress_qps,
                "block_s": limits.block_s,
                "calls": [
                    {"account": account, "action": action, **_measured(meter)}
                    for (account, action), meter in self._throttle.calls.items()
                ],
                "addresses": [
                    {"address": address, **_measured(meter)} for address, meter in self._throttle.addresses.items()
                ],
                "blocked": [{"address": address, "for_s": for_s} for address, for_s in blocked.items()],
            }
        )

    async def set_limits(self, request: web.Request) -> web.Response:
        """Set the quotas from the next call on."""
        order = await _read(request, LimitsOrder)
        for action in order.qps:
            _check_action(action)
        limits = PRESETS[order.preset] if order.preset else self._throttle.limits
        qps = {**limits.qps, **order.qps}
        limits = replace(limits, qps={action: limit for action, limit in qps.items() if limit is not None})
        if not isinstance(order.egress_qps, msgspec.UnsetType):
            limits = replace(limits, egress_qps=order.egress_qps)
        if order.block_s is not None:
            limits = replace(limits, block_s=order.block_s)
        self._throttle.limits = limits
        return await self.limits(request)

    async def block(self, request: web.Request) -> web.Response:
        """Block an address."""
        order = await _read(request, BlockOrder)
        try:
            address = str(ipaddress.ip_address(order.address))
        except ValueError:
            raise _bad(f"address {order.address!r} is no IP address") from None
        self._throttle.block(address, self._throttle.limits.block_s if order.for_s is None else order.for_s)
        return await self.limits(request)

    async def unblock(self, request: web.Request) -> web.Response:
        """Let every address in again."""
        self._throttle.unblock()
        return await self.limits(request)

    async def restart_broker(self, request: web.Request) -> web.Response:
        """Drop every MQTT connection, as a restart of the broker would."""
        order = await _read(request, BrokerOrder)
        dropped = await self._listener.restart(down_s=order.down_s, forget_sessions=order.forget_sessions)
        return _json({"dropped": dropped})

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


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _measured(meter: Meter) -> dict[str, int]:
    return {"peak": meter.peak, "refused": meter.refused}


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
