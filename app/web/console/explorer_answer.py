"""What the explorer shows of a call: request and answer, and the same call as others make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.cloud.exchange import Received, Sent
from app.rpc.catalog import Action
from app.service.explorer import ExplorerCall
from app.web.console import samples
from app.web.console.explorer_form import CallForm

_HEADERS: Final = ("Content-Type", "Date", "x-acs-request-id", "x-acs-retry-after")


@dataclass(frozen=True, slots=True)
class CallPlace:
    """Where a call goes: the cloud's URL and region."""

    url: str
    region: str


def describe_call(action: Action, called: ExplorerCall, form: CallForm, place: CallPlace) -> dict[str, Any]:
    """Return what a page shows of a call; secrets only where the form asks for them."""
    compared = called.received.compare(called.sent) if called.received and called.sent else ""
    sent, received = (called.sent, called.received) if form.show_secrets else _hide_secrets(called)
    refusal = called.error or (received.refusal if received else None)
    return {
        "sent": sent,
        "refusal": refusal,
        "compared": compared,
        **_describe_received(received),
        **_samples(action, sent, form, place),
    }


def _hide_secrets(called: ExplorerCall) -> tuple[Sent | None, Received | None]:
    if called.sent is None:
        return None, called.received
    return called.sent.hidden(), called.received.hidden(called.sent) if called.received else None


def _describe_received(received: Received | None) -> Mapping[str, Any]:
    if received is None:
        return {"body": "", "pretty": "", "http_status": 0, "headers": []}
    headers = received.raw.headers
    return {
        "body": received.raw.body.decode(errors="replace"),
        "pretty": "" if received.refusal else received.pretty(),
        "http_status": received.raw.status,
        "headers": [(name, headers[name]) for name in _HEADERS if name in headers],
    }


def _samples(action: Action, sent: Sent | None, form: CallForm, place: CallPlace) -> Mapping[str, str]:
    parameters = form.parameters(action)
    temporary = sent is not None and "SecurityToken" in sent.parameters
    return {
        "curl": samples.curl(place.url, sent) if sent else "",
        "command": samples.command(action, parameters, xml=form.format == "XML"),
        "python": samples.python(action, parameters, place.url, place.region, temporary=temporary),
    }
