"""The output of ``call``: the list of actions, an action's parameters, an answer."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from app.cloud.errors import CloudError
from app.cloud.exchange import Received, Sent
from app.rpc.catalog import ACTIONS, Action, Field


def list_actions() -> str:
    """Return one line for each action, with its chapter and parameters."""
    rows = []
    for action in ACTIONS.values():
        names = (each.name if each.required else f"[{each.name}]" for each in action.parameters)
        rows.append(f"{action.name:<30}{action.chapter or 'new':<6}{' '.join(names)}")
    return "\n".join([*rows, "", "`call ACTION --help` describes an action."])


def describe_action(action: Action) -> str:
    """Return the parameters of an action with their rules, its answer, permissions and error codes."""
    chapter = f"guide chapter {action.chapter}" if action.chapter else "newer than the guide"
    rows = [f"{action.name}: {chapter}, at most {action.qps} calls per second for the account", ""]
    for parameter in action.parameters:
        name = f"--{parameter.name}{'.N' if parameter.kind == 'RepeatList' else ''}"
        from_settings = parameter.name in {"InstanceId", "RegionId"}
        rows.append(f"  {name:<18}{'default: that of the settings' if from_settings else parameter.rule.says}")
    rows += [
        "",
        f"answer       {' '.join(_leaf_fields(action.answer))}",
        f"permissions  {', '.join(permission.action for permission in action.permissions)} (RAM)",
        f"error codes  {' '.join(action.errors)}",
    ]
    return "\n".join(rows)


def _leaf_fields(fields: tuple[Field, ...], prefix: str = "") -> list[str]:
    names = []
    for each in fields:
        path = f"{prefix}{each.name}{'[]' if each.kind == 'Array' else ''}"
        names += _leaf_fields(each.fields, f"{path}.") if each.fields else [path]
    return names


@dataclass(frozen=True)
class CallPrinter:
    """Prints an answer; with ``sent``, the request, also how it was signed."""

    received: Received
    sent: Sent | None

    @property
    def refusal(self) -> CloudError | None:
        """The error in the answer, or None."""
        return self.received.refusal

    def print_raw(self) -> None:
        """Print the bytes of the answer, and the signing on standard error."""
        self._print_signing(sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(self.received.raw.body)
        sys.stdout.flush()

    def print_for_machines(self) -> None:
        """Print one line of JSON."""
        document: dict[str, Any] = {"status": self.received.raw.status}
        if self.refusal is None:
            document["answer"] = self.received.json()
        else:
            document["error"] = {
                "code": self.refusal.code,
                "message": self.refusal.message,
                "request_id": self.refusal.request_id,
                "kind": self.refusal.kind.value,
                "probable_cause": self.refusal.error_hint,
            }
        if self.sent is not None:
            document["signing"] = {"string_to_sign": self.sent.string_to_sign, "signature": self.sent.signature}
        print(json.dumps(document, ensure_ascii=False))

    def print_for_people(self) -> None:
        """Print the answer with its fields in the guide's order, or the error with its probable cause."""
        self._print_signing(sys.stdout)
        if self.refusal is None:
            print(self.received.pretty())
            return
        refusal = self.refusal
        print(f"error: {refusal.code}: {refusal.message}", file=sys.stderr)
        print(f"  HTTP status     {refusal.status}", file=sys.stderr)
        if refusal.request_id:
            print(f"  RequestId       {refusal.request_id}", file=sys.stderr)
        if refusal.error_hint:
            print(f"  probable cause  {refusal.error_hint}", file=sys.stderr)
        if self.sent is not None and (compared := self.received.compare(self.sent)):
            print(f"  comparison      {compared}", file=sys.stderr)

    def _print_signing(self, to: Any) -> None:
        if self.sent is not None:
            print(f"string to sign  {self.sent.string_to_sign}\nsignature       {self.sent.signature}\n", file=to)
