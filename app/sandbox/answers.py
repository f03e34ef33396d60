"""How the gateway answers: one shape for results, one for errors, each as JSON or XML (guide chapter 7, FACTS 5)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from aiohttp import web

from app.rpc.catalog import ERRORS, GATEWAY_ERRORS

Value = str | bool
"""What a field of an answer may be; today's actions have no other kinds."""

_TROUBLESHOOT: Final = "https://api.aliyun.com/troubleshoot"


class Format(Enum):
    """The answer's format; the value is its content type, to the letter (the newer SDK compares the XML one)."""

    JSON = "application/json;charset=utf-8"
    XML = "text/xml;charset=utf-8"


class Fault(Exception):
    """A call is refused with a code of the catalog."""

    def __init__(self, code: str, parameter: str = "") -> None:
        """``code`` as the catalog has it; ``parameter`` fills its ``%s``, in the code and in the message.

        Raises ``KeyError`` for a code the catalog does not have.
        """
        row = GATEWAY_ERRORS.get(code) or ERRORS[code]
        self.status = row.status
        self.code = row.code.replace("%s", parameter)
        self.message = row.message.replace("%s", parameter)
        super().__init__(self.code)


def fault_of(code: str) -> Fault:
    """Return the refusal that a caller would see as ``code``.

    The letters' case is kept as given: today's cloud writes ``SystemOverFlow`` where the guide has ``SystemOverflow``
    (FACTS 0.3). Raises ``KeyError`` if the catalog has no such code.
    """
    for name in (*GATEWAY_ERRORS, *ERRORS):
        if name.lower() == code.lower():
            fault = Fault(name)
            fault.code = code
            return fault
    for prefix in ("Missing", "InvalidParameter."):
        if code.startswith(prefix) and code != prefix:
            return Fault(f"{prefix}%s", code.removeprefix(prefix))
    raise KeyError(code)


@dataclass(frozen=True, slots=True)
class Answer:
    """A rendered answer and what it is counted as."""

    status: int
    result: str
    body: bytes
    format: Format

    def response(self) -> web.Response:
        """Return it for aiohttp."""
        return web.Response(status=self.status, body=self.body, headers={"Content-Type": self.format.value})


def new_request_id() -> str:
    """Return a ``RequestId`` in the cloud's spelling."""
    return str(uuid.uuid4()).upper()


def result(action: str, request_id: str, fields: Mapping[str, Value], format_: Format) -> Answer:
    """Render a result; elements in the order of the guide's samples (10.1 to 10.3)."""
    return Answer(200, "OK", _render(f"{action}Response", {"RequestId": request_id, **fields}, format_), format_)


def error(fault: Fault, request_id: str, host_id: str, format_: Format) -> Answer:
    """Render a refusal. ``Recommend`` stands in JSON alone, as seen in the wild (FACTS 5)."""
    fields: dict[str, Value] = {
        "RequestId": request_id,
        "HostId": host_id,
        "Code": fault.code,
        "Message": fault.message,
    }
    if format_ is Format.JSON:
        query = urlencode({"q": fault.code, "product": "OnsMqtt", "requestId": request_id})
        fields["Recommend"] = f"{_TROUBLESHOOT}?{query}"
    return Answer(fault.status, fault.code, _render("Error", fields, format_), format_)


def _render(root: str, fields: Mapping[str, Value], format_: Format) -> bytes:
    if format_ is Format.JSON:
        return json.dumps(fields).encode()
    elements = "".join(f"<{name}>{_xml(value)}</{name}>" for name, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><{root}>{elements}</{root}>'.encode()


def _xml(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else escape(value)
