"""How the gateway answers: one shape for results, one for errors, each as JSON or XML (guide chapter 7, FACTS 5)."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from aiohttp import web

from app.rpc.catalog import ACTIONS, Field
from app.rpc.codes import ERRORS, GATEWAY_ERRORS

Value = str | bool | int | Mapping[str, "Value"] | Sequence[Mapping[str, "Value"]]
"""What a field of an answer may be."""

_NO_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write (section 2.2); a reader would refuse the whole answer."""

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
    """Render a result: the fields that the catalog lists, in its order."""
    ordered = _ordered(ACTIONS[action].answer, {"RequestId": request_id, **fields})
    return Answer(200, "OK", _render(f"{action}Response", ordered, format_), format_)


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


def _ordered(fields: tuple[Field, ...], values: Mapping[str, Value]) -> Mapping[str, Value]:
    ordered: dict[str, Value] = {}
    for field in fields:
        value = values[field.name]
        if isinstance(value, Mapping):
            value = _ordered(field.fields, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [_ordered(field.fields, item) for item in value]
        ordered[field.name] = value
    return ordered


def _render(root: str, fields: Mapping[str, Value], format_: Format) -> bytes:
    if format_ is Format.JSON:
        return json.dumps(fields).encode()
    return f'<?xml version="1.0" encoding="UTF-8"?>{_element(root, fields)}'.encode()


def _element(name: str, value: Value) -> str:
    """Render one element; a list is the element repeated, without another around (11.2, 13.2)."""
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, str | int):
        return f"<{name}>{_text(str(value))}</{name}>"
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_element(*item) for item in value.items())}</{name}>"
    return "".join(_element(name, item) for item in value)


def _text(value: str) -> str:
    # A bare carriage return would be read as a line feed (XML 1.0 section 2.11).
    return escape(_NO_XML.sub("\ufffd", value), {"\r": "&#13;"})
