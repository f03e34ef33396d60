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

AnswerValue = str | bool | int | Mapping[str, "AnswerValue"] | Sequence[Mapping[str, "AnswerValue"]]
"""The value of a field of an answer."""

_NOT_IN_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot represent (section 2.2): with one of them a reader refuses the whole answer."""

_TROUBLESHOOT: Final = "https://api.aliyun.com/troubleshoot"


class WireFormat(Enum):
    """The format of an answer. The value is its exact content type: the newer SDK compares the one of XML."""

    JSON = "application/json;charset=utf-8"
    XML = "text/xml;charset=utf-8"


class CallRefused(Exception):
    """A call is refused with a code of the catalog."""

    def __init__(self, code: str, parameter: str = "") -> None:
        """``code`` as in the catalog; ``parameter`` replaces its ``%s``, in the code and in the message.

        Raises ``KeyError`` for a code that the catalog does not have.
        """
        row = GATEWAY_ERRORS.get(code) or ERRORS[code]
        self.status = row.status
        self.code = row.code.replace("%s", parameter)
        self.message = row.message.replace("%s", parameter)
        super().__init__(self.code)


def refusal_of(code: str) -> CallRefused:
    """Return the refusal that a caller sees as ``code``. Raises ``KeyError`` if the catalog has no such code.

    Its spelling is kept: today's cloud sends ``SystemOverFlow`` where the guide has ``SystemOverflow`` (FACTS 0.3).
    """
    for name in (*GATEWAY_ERRORS, *ERRORS):
        if name.lower() == code.lower():
            refusal = CallRefused(name)
            refusal.code = code
            return refusal
    for prefix in ("Missing", "InvalidParameter."):
        if code.startswith(prefix) and code != prefix:
            return CallRefused(f"{prefix}%s", code.removeprefix(prefix))
    raise KeyError(code)


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """A rendered answer."""

    status: int
    body: bytes
    format: WireFormat

    def response(self) -> web.Response:
        """Return it as a response of aiohttp."""
        return web.Response(status=self.status, body=self.body, headers={"Content-Type": self.format.value})


def new_request_id() -> str:
    """Return a ``RequestId`` in the cloud's spelling."""
    return str(uuid.uuid4()).upper()


def render_result(
    action: str, fields: Mapping[str, AnswerValue], format_: WireFormat, *, request_id: str
) -> GatewayAnswer:
    """Render a result: the fields that the catalog lists, in its order."""
    ordered = _in_catalog_order(ACTIONS[action].answer, {"RequestId": request_id, **fields})
    return GatewayAnswer(200, _render(f"{action}Response", ordered, format_), format_)


def render_error(refusal: CallRefused, format_: WireFormat, *, request_id: str, host_id: str) -> GatewayAnswer:
    """Render a refusal. ``Recommend`` is in JSON only, as observed (FACTS 5)."""
    fields: dict[str, AnswerValue] = {
        "RequestId": request_id,
        "HostId": host_id,
        "Code": refusal.code,
        "Message": refusal.message,
    }
    if format_ is WireFormat.JSON:
        query = urlencode({"q": refusal.code, "product": "OnsMqtt", "requestId": request_id})
        fields["Recommend"] = f"{_TROUBLESHOOT}?{query}"
    return GatewayAnswer(refusal.status, _render("Error", fields, format_), format_)


def _in_catalog_order(fields: tuple[Field, ...], values: Mapping[str, AnswerValue]) -> Mapping[str, AnswerValue]:
    ordered: dict[str, AnswerValue] = {}
    for field in fields:
        value = values[field.name]
        if isinstance(value, Mapping):
            value = _in_catalog_order(field.fields, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [_in_catalog_order(field.fields, item) for item in value]
        ordered[field.name] = value
    return ordered


def _render(root: str, fields: Mapping[str, AnswerValue], format_: WireFormat) -> bytes:
    if format_ is WireFormat.JSON:
        return json.dumps(fields).encode()
    return f'<?xml version="1.0" encoding="UTF-8"?>{_xml_element(root, fields)}'.encode()


def _xml_element(name: str, value: AnswerValue) -> str:
    """Render one element; a list is the repeated element, without an enclosing one (11.2, 13.2)."""
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, str | int):
        return f"<{name}>{_xml_text(str(value))}</{name}>"
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(_xml_element(*item) for item in value.items())}</{name}>"
    return "".join(_xml_element(name, item) for item in value)


def _xml_text(value: str) -> str:
    # A bare carriage return would be read as a line feed (XML 1.0 section 2.11).
    return escape(_NOT_IN_XML.sub("\ufffd", value), {"\r": "&#13;"})
