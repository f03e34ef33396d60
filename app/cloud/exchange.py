"""One call as people look at it: what was signed and sent, what came back, and both without their secrets."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from app.cloud.answers import RawAnswer, read_refusal
from app.cloud.errors import CloudError
from app.model.text import _
from app.rpc import signature
from app.rpc.catalog import SECRETS, Action, Field

HIDDEN: Final = "~hidden~"
"""Shown in place of a secret; no encoding changes its characters, so that it is readable everywhere."""

MIN_SECRET_CHARS: Final = 4
"""A shorter secret is hidden in its own field alone: any word could contain it."""

_NAMES: Final = "|".join(sorted(SECRETS))
# To the end where the closing mark is missing: an answer may be cut off anywhere.
_IN_JSON: Final = re.compile(rf'("(?:{_NAMES})"\s*:\s*")(?:[^"\\]|\\.)*+("|\\?\Z)', re.IGNORECASE | re.DOTALL)
_IN_XML: Final = re.compile(rf"(<({_NAMES})\b[^>]*>).*?(</\2>|\Z)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Sent:
    """A signed call as it was sent: a form (guide chapters 5 and 7)."""

    form: bytes = field(repr=False)

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """Every parameter, in the order in which they were sent."""
        return dict(parse_qsl(self.form.decode(), keep_blank_values=True))

    @cached_property
    def string_to_sign(self) -> str:
        """What was signed."""
        return signature.rpc_string_to_sign("POST", self.parameters)

    @property
    def signature(self) -> str:
        """Its signature."""
        return self.parameters["Signature"]

    @property
    def secrets(self) -> list[str]:
        """The values that only the caller may see."""
        return [value for name, value in self.parameters.items() if name in SECRETS and value]

    def hidden(self) -> Sent:
        """Return the same without its secrets; its string to sign then differs from what was signed."""
        shown = {name: HIDDEN if name in SECRETS and value else value for name, value in self.parameters.items()}
        encode = signature.percent_encode
        return Sent("&".join(f"{encode(name)}={encode(value)}" for name, value in shown.items()).encode())


@dataclass(frozen=True)
class Received:
    """An answer to one action."""

    action: Action
    raw: RawAnswer

    @cached_property
    def refusal(self) -> CloudError | None:
        """The error that the answer is, if it is one."""
        return read_refusal(self.raw)

    def compare(self, sent: Sent) -> str:
        """Return whether the cloud signed the same string, where it refuses the signature and quotes its own (FACTS 4).

        Empty for every other answer.
        """
        if self.refusal is None or self.refusal.code != "SignatureDoesNotMatch":
            return ""
        quoted = html.unescape(self.raw.body.decode(errors="replace")).replace("\\u0026", "&")
        if sent.string_to_sign in quoted:
            return _("the cloud signed the same string, so the access key secret is wrong")
        return _("the cloud signed a different string, so the call was changed on the way")

    def json(self) -> Any:
        """Return a result in JSON with its fields in the guide's order."""
        return _ordered(self.action.answer, json.loads(self.raw.body))

    def pretty(self) -> str:
        """Return a result, in JSON or XML, indented and with its fields in the guide's order."""
        if "xml" not in self.raw.content_type:
            return json.dumps(self.json(), indent=2, ensure_ascii=False)
        root = ET.fromstring(self.raw.body)  # noqa: S314 (read_refusal has refused what declares entities)
        _order(self.action.answer, root)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode")

    def hidden(self, sent: Sent) -> Received:
        """Return the same without secrets, both those of its fields and those it quotes of ``sent``."""
        text = self.raw.body.decode(errors="replace")
        text = _IN_JSON.sub(rf"\1{HIDDEN}\2", text)
        text = _IN_XML.sub(rf"\1{HIDDEN}\3", text)
        for quoted in _quotations(sent.secrets):
            text = quoted.sub(HIDDEN, text)
        return replace(self, raw=replace(self.raw, body=text.encode()))


def _quotations(secrets: Iterable[str]) -> Iterable[re.Pattern[str]]:
    """Return patterns of secrets however they are written: a refused signature's message encodes them twice or more."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARS:
            parts = (
                character if character.isalnum() and character.isascii() else f"(?:{_writings(character)})"
                for character in secret
            )
            yield re.compile("".join(parts), re.IGNORECASE)


def _writings(character: str) -> str:
    """Return a pattern of one character: as it is, percent-encoded however often, escaped in HTML, XML or JSON."""
    percent = "".join(f"%(?:25)*{byte:02X}" for byte in character.encode(errors="surrogatepass"))
    plain = {character, html.escape(character), json.dumps(character)[1:-1], f"\\{character}", f"&#{ord(character)};"}
    plain |= {f"&#x{ord(character):x};", f"\\u{ord(character):04x}"} | ({"+"} if character == " " else set())
    return "|".join([percent, *sorted(map(re.escape, plain), key=len, reverse=True)])


def _ordered(fields: tuple[Field, ...], value: Any) -> Any:
    """Put the fields into the guide's order; those it does not know come last."""
    if isinstance(value, list):
        return [_ordered(fields, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    known = {each.name: _ordered(each.fields, value[each.name]) for each in fields if each.name in value}
    return {**known, **{name: item for name, item in value.items() if name not in known}}


def _order(fields: tuple[Field, ...], element: ET.Element) -> None:
    places = {each.name: place for place, each in enumerate(fields)}
    element[:] = sorted(element, key=lambda child: places.get(child.tag, len(places)))
    for child in element:
        if child.tag in places:
            _order(fields[places[child.tag]].fields, child)
