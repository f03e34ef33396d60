"""The HTTP side of the stand-in cloud: take a request apart, verify it, run its action, answer (guide chapters 5, 7).

A fault ordered for an action befalls a call after its caller is proven and before it has an effect.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from app.rpc.catalog import ACTIONS
from app.sandbox import actions, answers, verify
from app.sandbox.account import Account
from app.sandbox.answers import Answer, Fault, Format
from app.sandbox.faults import ActiveFault, Faults, Kind
from app.sandbox.keys import AccessKey
from app.sandbox.limits import Throttle
from app.sandbox.verify import Call, Request

log = structlog.get_logger("sandbox.gateway")

MAX_BODY_BYTES: Final = 256 * 1024
_MAX_PARAMETERS: Final = 200
_FORM: Final = "application/x-www-form-urlencoded"

_NO_ACTION: Final = "Unknown"
"""Calls that name no action of the catalog are counted under this, so that callers cannot make up rows."""

_DROPPED: Final = "Dropped"
"""What a call is counted as that got no answer of the cloud's making, and had no effect."""

_BLOCKED: Final = "Blocked"
"""What a request from a blocked address is counted as; it got no answer either."""

_MANGLED: Final = {
    Kind.GARBAGE: (
        200,
        Format.JSON.value,
        b'{"RequestId": 17, "Token": {"Token": ["not a token"]}, "TokenStatus": "perhaps"}',
    ),
    Kind.NOISE: (200, Format.JSON.value, bytes(range(128, 256))),
    Kind.HTML: (
        502,
        "text/html",
        b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    ),
}
"""Status, content type and body of what a proxy or a broken gateway would send."""


class Gateway:
    """Answers the cloud's RPC, and counts what it answered per action and result."""

    def __init__(
        self, account: Account, keys: Mapping[str, AccessKey], throttle: Throttle, faults: Faults, host_id: str
    ) -> None:
        self.calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._account = account
        self._keys = keys
        self._throttle = throttle
        self._faults = faults
        self._host_id = host_id

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """Answer one request; a refusal is an answer too."""
        request_id = answers.new_request_id()
        if not self._throttle.admits_address(http.remote or ""):
            self._count(_NO_ACTION, _BLOCKED, request_id)
            return _hang_up(http)
        action, format_ = _NO_ACTION, Format.XML
        try:
            request = await _take_apart(http)
            action = request.action if request.action in ACTIONS else _NO_ACTION
            format_ = verify.answer_format(request)
            call = await verify.verify(
                request, keys=self._keys, state=self._account.state, now_ms=self._account.clock.now_ms()
            )
            return await self._answer(http, call, request_id, format_)
        except Fault as refusal:
            answer = answers.error(refusal, request_id, self._host_id, format_)
        except sqlite3.Error as error:
            log.warning("state out of reach", request_id=request_id, error=str(error))
            failure = ACTIONS[action].failure if action in ACTIONS else "InternalError"
            answer = answers.error(Fault(failure), request_id, self._host_id, format_)
        self._count(action, answer.result, request_id)
        return answer.response()

    async def _answer(self, http: web.Request, call: Call, request_id: str, format_: Format) -> web.StreamResponse:
        if not self._throttle.admits(call.account, call.action):
            raise Fault(ACTIONS[call.action].overflow)
        fault = self._faults.take(call.action)
        if fault is not None and (instead := await self._befall(fault, call.action, http)) is not None:
            self._count(call.action, _DROPPED, request_id)
            return instead
        fields = await actions.run(self._account, call)
        answer = answers.result(call.action, request_id, fields, format_)
        # Counted even if the caller has gone away meanwhile: it took effect, as it would at the cloud.
        self._count(call.action, answer.result, request_id)
        if fault is not None and fault.kind is Kind.HALF:
            return await _send_half(http, answer)
        return answer.response()

    async def _befall(self, fault: ActiveFault, action: str, http: web.Request) -> web.Response | None:
        """Let ``fault`` happen to a call; what it returns is sent instead of an answer. Raises ``Fault``."""
        match fault.kind:
            case Kind.DELAY:
                await asyncio.sleep(fault.delay_s)
            case Kind.ERROR:
                raise answers.fault_of(fault.code)
            case Kind.THROTTLE:
                raise Fault(ACTIONS[action].overflow)
            case Kind.HOLD | Kind.HANG:
                released = await self._faults.wait(action)
                if fault.kind is Kind.HANG or not released:
                    return _hang_up(http)
            case Kind.DROP:
                return _hang_up(http)
            case Kind.GARBAGE | Kind.NOISE | Kind.HTML:
                status, content_type, body = _MANGLED[fault.kind]
                return web.Response(status=status, body=body, headers={"Content-Type": content_type})
            case Kind.HALF:
                pass  # takes effect first
        return None

    def _count(self, action: str, outcome: str, request_id: str) -> None:
        self.calls[action][outcome] += 1
        log.info("call", action=action, result=outcome, request_id=request_id)


async def _take_apart(http: web.Request) -> Request:
    """Decode query and form, never trusting one spelling of the encoding (FACTS 3.2). Raises ``Fault``."""
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Fault("ParameterCheckFailed")
    try:
        body = await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise Fault("ParameterCheckFailed") from None
    query = _decode(http.rel_url.raw_query_string)
    form = _decode(body.decode("ascii", "replace")) if http.content_type == _FORM else []
    return Request(http.method, http.rel_url.raw_path, _merge(query), _merge(query + form), http.headers, body)


def _decode(text: str) -> list[tuple[str, str]]:
    try:
        # Blank values are part of the signature: the classic SDK sends SignatureType= (FACTS 4).
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Fault("ParameterCheckFailed") from None


def _merge(pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    merged: dict[str, str] = {}
    for name, value in pairs:
        if merged.setdefault(name, value) != value:
            # Two values under one name: the one verified and the one used could differ.
            raise Fault("ParameterCheckFailed")
    return merged


def _hang_up(http: web.Request) -> web.Response:
    """Close the connection; what is returned is never sent."""
    if http.transport is not None:
        http.transport.abort()
    return web.Response()


async def _send_half(http: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.format.value})
    response.content_length = len(answer.body)
    await response.prepare(http)
    await response.write(answer.body[: len(answer.body) // 2])
    if http.transport is not None:
        http.transport.close()
    return response
