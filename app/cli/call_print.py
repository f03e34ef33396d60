"""What ``call`` prints: the list of actions, an action's parameters, an answer."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from app.cloud.errors import CloudError
from app.cloud.exchange import Received, Sent
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
class CallPrinter:
    """An answer to be shown; ``sent`` is the call, if its signing is to be shown too."""

    received: Received
    sent: Sent | None

    @property
    def refusal(self) -> CloudError | None:
        """The error that the answer is, if it is one."""
        return self.received.refusal

    def print_raw(self) -> None:
        """Print the very bytes, and all else beside them."""
        self._print_signing(sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(self.received.raw.body)
        sys.stdout.flush()

    def print_for_machines(self) -> None:
        """Print one line of JSON."""
        shown: dict[str, Any] = {"status": self.received.raw.status}
        if self.refusal is None:
            shown["answer"] = self.received.json()
        else:
            shown["error"] = {
                "code": self.refusal.code,
                "message": self.refusal.message,
                "request_id": self.refusal.request_id,
                "kind": self.refusal.kind.value,
                "probable_cause": self.refusal.error_hint,
            }
        if self.sent is not None:
            shown["signing"] = {"string_to_sign": self.sent.string_to_sign, "signature": self.sent.signature}
        print(json.dumps(shown, ensure_ascii=False))

    def print_for_people(self) -> None:
        """Print the answer with its fields in the guide's order, or what was wrong and what probably lies behind it."""
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
            print(f"  compared        {compared}", file=sys.stderr)

    def _print_signing(self, to: Any) -> None:
        if self.sent is not None:
            print(f"string to sign  {self.sent.string_to_sign}\nsignature       {self.sent.signature}\n", file=to)
