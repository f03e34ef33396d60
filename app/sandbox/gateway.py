"""The HTTP side of the sandbox: read a request, verify it, carry out its action, answer (guide chapters 5 and 7).

A fault that was ordered for an action happens to a call after it was verified and before it has an effect.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox import answers, broker_actions, credential_actions, group_actions, token_actions
from app.sandbox.account import ActionHandler, SandboxAccount
from app.sandbox.answers import CallRefused, GatewayAnswer, WireFormat
from app.sandbox.arrivals import ArrivalTimes
from app.sandbox.call_meter import Arrival
from app.sandbox.faults import ActiveFault, FaultInjector, FaultKind
from app.sandbox.gateway_request import GatewayRequest, read_gateway_request
from app.sandbox.limits import Throttle
from app.sandbox.verify import VerifiedCall, verify_call

log = structlog.get_logger("sandbox.gateway")

HANDLERS: Final[Mapping[str, ActionHandler]] = MappingProxyType(
    {
        **token_actions.HANDLERS,
        **group_actions.HANDLERS,
        **broker_actions.HANDLERS,
        **credential_actions.HANDLERS,
    }
)

_UNKNOWN_ACTION: Final = "Unknown"
"""The row of all calls that name no action of the catalog, so that callers cannot add rows."""

_OK: Final = "OK"
_DROPPED: Final = "Dropped"
"""The result of a call that had no effect and got no answer of the cloud."""
_BLOCKED: Final = "Blocked"
"""The result of a request from a blocked address; it got no answer either."""

_REPLACEMENTS: Final = {
    FaultKind.GARBAGE: (
        200,
        WireFormat.JSON.value,
        b'{"RequestId": 17, "Token": {"Token": ["not a token"]}, "TokenStatus": "perhaps"}',
    ),
    FaultKind.NOISE: (200, WireFormat.JSON.value, bytes(range(128, 256))),
    FaultKind.HTML: (
        502,
        "text/html",
        b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    ),
}
"""Status, content type and body of what a proxy or a broken gateway would send."""


class Gateway:
    """Answers the cloud's RPC, and counts its answers per action and result."""

    def __init__(
        self,
        account: SandboxAccount,
        *,
        throttle: Throttle,
        faults: FaultInjector,
        arrivals: ArrivalTimes,
        host_id: str,
    ) -> None:
        self.calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._account = account
        self._throttle = throttle
        self._faults = faults
        self._arrivals = arrivals
        self._host_id = host_id

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """Answer one request; a refusal is an answer too."""
        arrival = self._arrivals.find(http.get_extra_info("socket"))
        if delay_s := self._faults.next_delay_s():
            arrival = await _arrive_later(arrival, delay_s)
        request_id = answers.new_request_id()
        if not self._throttle.admits_address(http.remote or "", arrival):
            self._count(_UNKNOWN_ACTION, _BLOCKED, request_id)
            return _close_without_answer(http)
        action, format_ = _UNKNOWN_ACTION, WireFormat.XML
        try:
            request = await read_gateway_request(http)
            action = request.action if request.action in ACTIONS else _UNKNOWN_ACTION
            format_ = request.answer_format()
            return await self._answer(http, request, format_, arrival=arrival, request_id=request_id)
        except CallRefused as error:
            refusal = error
        self._count(action, refusal.code, request_id)
        return answers.render_error(refusal, format_, request_id=request_id, host_id=self._host_id).response()

    async def _answer(
        self, http: web.Request, request: GatewayRequest, format_: WireFormat, *, arrival: Arrival, request_id: str
    ) -> web.StreamResponse:
        """Verify a request and carry it out. Raises ``CallRefused``, also if the database fails."""
        try:
            call = await verify_call(
                request,
                keys=self._account.access_keys,
                state=self._account.state,
                now_ms=self._account.clock.now_ms(),
            )
            return await self._carry_out(http, call, format_, arrival=arrival, request_id=request_id)
        except sqlite3.Error as error:
            # Only a request that names an action of the catalog uses the database.
            log.warning("database_failed", request_id=request_id, error=str(error))
            raise CallRefused(ACTIONS[request.action].failure) from None

    async def _carry_out(
        self, http: web.Request, call: VerifiedCall, format_: WireFormat, *, arrival: Arrival, request_id: str
    ) -> web.StreamResponse:
        if not self._throttle.admits(call.account, call.action, arrival):
            raise CallRefused(ACTIONS[call.action].overflow)
        fault = self._faults.take_fault(call.action)
        if fault is not None and fault.kind is FaultKind.THROTTLE:
            self._throttle.withdraw(call.account, call.action, arrival)  # a refused call does not count
        if fault is not None and (replacement := await self._inject(fault, call.action, http)) is not None:
            self._count(call.action, _DROPPED, request_id)
            return replacement
        self._account.check_call(call)
        fields = await HANDLERS[call.action](self._account, call)
        answer = answers.render_result(call.action, fields, format_, request_id=request_id)
        # Counted even if the caller has disconnected meanwhile: the call took effect, as it would at the cloud.
        self._count(call.action, _OK, request_id)
        if fault is not None and fault.kind is FaultKind.HALF:
            return await _send_half(http, answer)
        return answer.response()

    async def _inject(self, fault: ActiveFault, action: str, http: web.Request) -> web.Response | None:
        """Let ``fault`` happen to a call; return what is sent instead of an answer. Raises ``CallRefused``."""
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(fault.delay_s)
            case FaultKind.ERROR:
                raise answers.refusal_of(fault.code)
            case FaultKind.THROTTLE:
                raise CallRefused(ACTIONS[action].overflow)
            case FaultKind.HOLD | FaultKind.HANG:
                is_released = await self._faults.wait_for_release(action, fault)
                if fault.kind is FaultKind.HANG or not is_released:
                    return _close_without_answer(http)
            case FaultKind.DROP:
                return _close_without_answer(http)
            case FaultKind.GARBAGE | FaultKind.NOISE | FaultKind.HTML:
                status, content_type, body = _REPLACEMENTS[fault.kind]
                return web.Response(status=status, body=body, headers={"Content-Type": content_type})
            case FaultKind.HALF | FaultKind.JITTER:
                pass  # the call takes effect first; the network has delayed the request already
        return None

    def _count(self, action: str, result: str, request_id: str) -> None:
        self.calls[action][result] += 1
        log.info("call_answered", action=action, result=result, request_id=request_id)


async def _arrive_later(arrival: Arrival, delay_s: float) -> Arrival:
    """Wait until a request arrives that the network delays, and return when that is."""
    later = arrival._replace(at_s=arrival.at_s + delay_s)
    await asyncio.sleep(later.at_s - time.monotonic())
    return later


def _close_without_answer(http: web.Request) -> web.Response:
    """Close the connection; the response that is returned is never sent."""
    if http.transport is not None:
        http.transport.abort()
    return web.Response()


async def _send_half(http: web.Request, answer: GatewayAnswer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.format.value})
    response.content_length = len(answer.body)
    await response.prepare(http)
    await response.write(answer.body[: len(answer.body) // 2])
    if http.transport is not None:
        http.transport.close()
    return response
