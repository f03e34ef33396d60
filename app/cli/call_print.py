"""What ``call`` prints: the list of actions, an action's parameters, an answer."""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from app.cloud.answers import RawAnswer, read_refusal
from app.cloud.errors import CloudError
from app.rpc import signature
from app.rpc.catalog import ACTIONS, Action, Field


def actions() -> str:
    """Return all actions, a line each, with their chapter and parameters."""
    rows = []
    for action in ACTIONS.values():
        names = (each.name if each.required else f"[{each.name}]" for each in action.parameters)
        rows.append(f"{action.name:<30}{action.chapter or 'new':<6}{' '.join(names)}")
    return "\n".join([*rows, "", "`call ACTION --help` describes one."])


def parameters(action: Action) -> str:
    """Return an action's parameters with their rules, and what else the catalog knows of it."""
    chapter = f"guide chapter {action.chapter}" if action.chapter else "newer than the guide"
    rows = [f"{action.name}: {chapter}, {action.qps} calls a second for the account", ""]
    for parameter in action.parameters:
        name = f"--{parameter.name}{'.N' if parameter.kind == 'RepeatList' else ''}"
        from_setup = parameter.name in {"InstanceId", "RegionId"}
        rows.append(f"  {name:<18}{'of the set-up if left out' if from_setup else parameter.rule.says}")
    rows += [
        "",
        f"answers  {' '.join(_leaves(action.answer))}",
        f"needs    {', '.join(permission.action for permission in action.permissions)} (RAM)",
        f"refuses  {' '.join(action.errors)}",
    ]
    return "\n".join(rows)


def _leaves(fields: tuple[Field, ...], prefix: str = "") -> list[str]:
    names = []
    for each in fields:
        path = f"{prefix}{each.name}{'[]' if each.kind == 'Array' else ''}"
        names += _leaves(each.fields, f"{path}.") if each.fields else [path]
    return names


@dataclass(frozen=True)
class Signing:
    """What was signed, taken from the form as it was sent."""

    string_to_sign: str
    signature: str

    @classmethod
    def of(cls, form: bytes) -> Signing:
        """Read it from the form."""
        sent = dict(parse_qsl(form.decode(), keep_blank_values=True))
        return cls(signature.rpc_string_to_sign("POST", sent), sent["Signature"])


@dataclass(frozen=True)
class Shown:
    """An answer to be shown; ``form`` is what was sent, if that is to be shown too."""

    action: Action
    answer: RawAnswer
    form: bytes | None = field(repr=False)

    @cached_property
    def refusal(self) -> CloudError | None:
        """The error that the answer is, if it is one."""
        return read_refusal(self.answer)

    @cached_property
    def signing(self) -> Signing | None:
        """What was signed, if it is to be shown."""
        return Signing.of(self.form) if self.form else None

    def print_raw(self) -> None:
        """Print the very bytes, and all else beside them."""
        self._print_signing(sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(self.answer.body)
        sys.stdout.flush()

    def print_for_machines(self) -> None:
        """Print one line of JSON."""
        shown: dict[str, Any] = {"status": self.answer.status}
        if self.refusal is None:
            shown["answer"] = self._json()
        else:
            shown["error"] = {
                "code": self.refusal.code,
                "message": self.refusal.message,
                "request_id": self.refusal.request_id,
                "kind": self.refusal.kind.value,
                "probable_cause": self.refusal.probable_cause,
            }
        if self.signing is not None:
            shown["signing"] = vars(self.signing)
        print(json.dumps(shown, ensure_ascii=False))

    def print_for_people(self) -> None:
        """Print the answer with its fields in the guide's order, or what was wrong and what probably lies behind it."""
        self._print_signing(sys.stdout)
        if self.refusal is None:
            print(
                self._xml()
                if "xml" in self.answer.content_type
                else json.dumps(self._json(), indent=2, ensure_ascii=False)
            )
            return
        refusal = self.refusal
        print(f"error: {refusal.code}: {refusal.message}", file=sys.stderr)
        print(f"  HTTP status     {refusal.status}", file=sys.stderr)
        if refusal.request_id:
            print(f"  RequestId       {refusal.request_id}", file=sys.stderr)
        if refusal.probable_cause:
            print(f"  probable cause  {refusal.probable_cause}", file=sys.stderr)
        if self.signing is not None and refusal.code == "SignatureDoesNotMatch":
            print(f"  compared        {self._comparison(self.signing)}", file=sys.stderr)

    def _print_signing(self, to: Any) -> None:
        if self.signing is not None:
            print(f"string to sign  {self.signing.string_to_sign}\nsignature       {self.signing.signature}\n", file=to)

    def _comparison(self, signing: Signing) -> str:
        """Tell whether the cloud signed the same string: it quotes its own in the refusal (FACTS 4)."""
        said = html.unescape(self.answer.body.decode(errors="replace")).replace("\\u0026", "&")
        if signing.string_to_sign in said:
            return "the cloud signed the very same string, so the secret is another"
        return "the cloud signed another string, so the call was changed on its way"

    def _json(self) -> Any:
        return _ordered(self.action.answer, json.loads(self.answer.body))

    def _xml(self) -> str:
        root = ET.fromstring(self.answer.body)  # noqa: S314 (read_refusal has refused what declares entities)
        _order(self.action.answer, root)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode")


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
