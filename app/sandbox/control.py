"""The sandbox's own endpoints under ``/_sandbox/``: call counts, faults on demand, quotas, clock, tokens.

=========  ==============================  ===========================================================================
calls      GET, DELETE                     counts per action and result; DELETE sets them, the peaks, the counts of
                                           injected faults and the longest pause to zero
faults     GET, POST ``FaultOrder``,       what goes wrong with calls (``FaultKind``): with the next ``times`` calls, a
           DELETE                          share of them (``rate``) or all ``for_s`` seconds; GET also returns how many
                                           calls are held, and how many were ``injected`` with a fault; DELETE ends all
                                           and releases held calls
release    POST ``ReleaseOrder``           lets the held calls of one action go on
limits     GET, POST ``LimitsOrder``       quotas: ``{"preset": "v3"}``, ``{"qps": {"ApplyToken": 500}, "egress_qps":
                                           300}``, ``null`` for none, ``{"window": "whole"}``; GET also returns, per
                                           account and action and per address, the most calls within one second
                                           (``peak``) and how many were ``refused``, the blocked addresses, and the
                                           longest pause of this process
blocks     POST ``BlockOrder``, DELETE     blocks an address, as the cloud does above 300 calls a second; DELETE
                                           unblocks every address
gateway    GET, POST ``GatewayOrder``,     closes the API's port for a while, so that connections are refused; DELETE,
           DELETE                          through the control port, opens it again
broker     POST ``BrokerOrder``            restarts the broker: every connection is lost
clock      GET, POST ``ClockOrder``        the time of gateway and broker
tokens     GET                             the tokens that were issued, by SHA-256
=========  ==============================  ===========================================================================

They are for tests and rehearsals on this machine: ``loopback_only`` refuses all others.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import msgspec
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox import answers
from app.sandbox.account import SandboxAccount
from app.sandbox.call_meter import CallMeter
from app.sandbox.connection import BrokerListener
from app.sandbox.control_requests import (
    BlockOrder,
    BrokerOrder,
    ClockOrder,
    FaultOrder,
    GatewayOrder,
    LimitsOrder,
    ReleaseOrder,
    bad_order,
    loopback_only,
    read_order,
    require_known_action,
)
from app.sandbox.faults import FaultInjector, FaultKind
from app.sandbox.gateway import Gateway
from app.sandbox.gateway_port import GatewayPort
from app.sandbox.limits import QUOTA_PRESETS, Throttle
from app.sandbox.pauses import PauseMeter
from app.sandbox.token_table import TokenStanding


class ControlEndpoints:
    """The handlers of ``/_sandbox/``."""

    def __init__(
        self,
        account: SandboxAccount,
        *,
        gateway: Gateway,
        throttle: Throttle,
        faults: FaultInjector,
        pauses: PauseMeter,
        port: GatewayPort,
        listener: BrokerListener,
    ) -> None:
        self._account = account
        self._gateway = gateway
        self._throttle = throttle
        self._faults = faults
        self._pauses = pauses
        self._port = port
        self._listener = listener

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, each for loopback callers only."""
        table = (
            ("GET", "calls", self._show_calls),
            ("DELETE", "calls", self._reset_calls),
            ("GET", "faults", self._show_faults),
            ("POST", "faults", self._add_fault),
            ("DELETE", "faults", self._clear_faults),
            ("POST", "release", self._release_calls),
            ("GET", "limits", self._show_limits),
            ("POST", "limits", self._set_limits),
            ("POST", "blocks", self._block_address),
            ("DELETE", "blocks", self._unblock_addresses),
            ("GET", "gateway", self._show_gateway),
            ("POST", "gateway", self._close_gateway),
            ("DELETE", "gateway", self._open_gateway),
            ("POST", "broker", self._restart_broker),
            ("GET", "clock", self._show_clock),
            ("POST", "clock", self._move_clock),
            ("GET", "tokens", self._show_tokens),
        )
        return [web.route(method, f"/_sandbox/{path}", loopback_only(handler)) for method, path, handler in table]

    async def _show_calls(self, _: web.Request) -> web.Response:
        """Return the number of calls per action and result (``OK``, an error code, ``Dropped`` or ``Blocked``)."""
        return _json(self._gateway.calls)

    async def _reset_calls(self, _: web.Request) -> web.Response:
        self._gateway.calls.clear()
        self._throttle.reset()
        self._faults.injected.clear()
        self._pauses.reset()
        return _json({})

    async def _show_faults(self, _: web.Request) -> web.Response:
        """Return the active faults, what they have done, and how many calls of each action are held now."""
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
        waiting = {action: self._faults.count_held(action) for action in ACTIONS}
        return _json({"faults": active, "held": waiting, "injected": self._faults.injected})

    async def _add_fault(self, request: web.Request) -> web.Response:
        order = await read_order(request, FaultOrder)
        order.check_action()
        if order.fault is FaultKind.ERROR:
            _require_known_code(order.code)
        fault_id = self._faults.add_fault(
            order.action,
            order.fault,
            code=order.code,
            delay_s=order.delay_s,
            times=order.effective_times(),
            rate=order.rate,
            seed=order.seed,
            for_s=order.for_s,
        )
        return _json({"id": fault_id})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear_faults()
        return _json({})

    async def _release_calls(self, request: web.Request) -> web.Response:
        order = await read_order(request, ReleaseOrder)
        require_known_action(order.action)
        return _json({"released": self._faults.release_calls(order.action)})

    async def _show_limits(self, _: web.Request) -> web.Response:
        """Return the quotas, and what was counted under each."""
        limits, blocked = self._throttle.limits, self._throttle.blocked_for_s()
        return _json(
            {
                "qps": {action: limits.qps.get(action) for action in ACTIONS},
                "egress_qps": limits.egress_qps,
                "block_s": limits.block_s,
                "window": limits.window,
                **self._pauses.describe(),
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

    async def _set_limits(self, request: web.Request) -> web.Response:
        """Change the quotas from the next call on."""
        order = await read_order(request, LimitsOrder)
        for action in order.qps:
            require_known_action(action)
        before = self._throttle.limits
        limits = replace(QUOTA_PRESETS[order.preset], window=before.window) if order.preset else before
        qps = {**limits.qps, **order.qps}
        limits = replace(limits, qps={action: limit for action, limit in qps.items() if limit is not None})
        if not isinstance(order.egress_qps, msgspec.UnsetType):
            limits = replace(limits, egress_qps=order.egress_qps)
        if order.block_s is not None:
            limits = replace(limits, block_s=order.block_s)
        self._throttle.change_limits(replace(limits, window=order.window or limits.window))
        return await self._show_limits(request)

    async def _block_address(self, request: web.Request) -> web.Response:
        order = await read_order(request, BlockOrder)
        try:
            address = str(ipaddress.ip_address(order.address))
        except ValueError:
            raise bad_order(f"address {order.address!r} is not a valid IP address") from None
        self._throttle.block(address, self._throttle.limits.block_s if order.for_s is None else order.for_s)
        return await self._show_limits(request)

    async def _unblock_addresses(self, request: web.Request) -> web.Response:
        self._throttle.unblock()
        return await self._show_limits(request)

    async def _show_gateway(self, _: web.Request) -> web.Response:
        """Return for how long the API's port stays closed, 0 if it is open."""
        return _json({"closed_for_s": self._port.closed_for_s()})

    async def _close_gateway(self, request: web.Request) -> web.Response:
        order = await read_order(request, GatewayOrder)
        await self._port.close_for(order.down_s, order=request)
        response = await self._show_gateway(request)
        response.force_close()  # the connection of this order may be one to the closed port
        return response

    async def _open_gateway(self, request: web.Request) -> web.Response:
        await self._port.open()
        return await self._show_gateway(request)

    async def _restart_broker(self, request: web.Request) -> web.Response:
        order = await read_order(request, BrokerOrder)
        dropped = await self._listener.restart(down_s=order.down_s, forget_sessions=order.forget_sessions)
        return _json({"dropped": dropped})

    async def _show_clock(self, _: web.Request) -> web.Response:
        clock = self._account.clock
        return _json({"now_ms": clock.now_ms(), "offset_s": clock.offset_s})

    async def _move_clock(self, request: web.Request) -> web.Response:
        """Set the offset to wall time, for gateway and broker."""
        self._account.clock.move((await read_order(request, ClockOrder)).offset_s)
        return await self._show_clock(request)

    async def _show_tokens(self, _: web.Request) -> web.Response:
        tokens, now_ms = self._account.state.tokens, self._account.clock.now_ms()
        return _json(
            [
                {
                    "sha256": token.sha256,
                    "type": token.type,
                    "resources": token.resources,
                    "expires_at_ms": token.expires_at_ms,
                    "revoked": tokens.standing(token, now_ms) is TokenStanding.REVOKED,
                }
                for token in tokens.list_tokens()
            ]
        )


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _measured(meter: CallMeter) -> dict[str, int]:
    return {"peak": meter.peak, "refused": meter.refused}


def _require_known_code(code: str) -> None:
    try:
        answers.refusal_of(code)
    except KeyError:
        reason = f"unknown code {code!r}: use one of the guide's chapter 9 or of the gateway"
        raise bad_order(reason) from None
