"""``/admin/explorer``: any action of the cloud, its signed request and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from aiohttp import web
from multidict import MultiDict

from app.errors import InvalidRequest, NotFound
from app.model.secrets import Secret
from app.model.text import join_sentences
from app.rpc.catalog import ACTIONS, SECRETS, Action, Parameter
from app.rpc.parameters import problems
from app.service.explorer import Called, Explorer
from app.web.api import RequestModel
from app.web.console import pending_form, samples
from app.web.console.forms import Filled, convert
from app.web.console.pages import ANSWER_WITHIN_S, KEYS, Visit
from app.web.console.rendering import PREFIX, PageContent

EXPLORER: Final = web.AppKey("explorer", Explorer)
ADDRESS: Final = f"{PREFIX}/explorer"

_CALL_WITHIN_S: Final = ANSWER_WITHIN_S - 1
"""So that the page, which says what was sent, is made before its own time is up."""

_HEADERS: Final = ("Content-Type", "Date", "x-acs-request-id", "x-acs-retry-after")
_AN_HOUR_MS: Final = 3_600_000

_BY_NAME: Final = {each.name: each for action in ACTIONS.values() for each in action.parameters}
"""A parameter of the same name is the same everywhere, but for how strict its rule is."""

if TYPE_CHECKING:
    _Parameters = RequestModel
else:
    _Parameters = msgspec.defstruct(
        "_Parameters",
        [
            (name, Secret, msgspec.field(default_factory=lambda: Secret(""))) if name in SECRETS else (name, str, "")
            for name in _BY_NAME
        ],
        bases=(RequestModel,),
        frozen=True,
        module=__name__,
    )


class CallForm(_Parameters, frozen=True):
    """A call: a field for each parameter that there is, a list's with a line for each.

    ``anyway`` sends what breaks a rule. ``show_secrets`` is for this one answer. ``confirmed`` is a whole form of this
    kind, sealed: what was shown to whoever said yes is what is sent.
    """

    format: Literal["JSON", "XML"] = "JSON"
    anyway: bool = False
    show_secrets: bool = False
    confirmed: str = ""


async def list_actions(visit: Visit) -> PageContent:  # noqa: ARG001 (the catalog is the same for all)
    """Show what can be called."""
    return PageContent.of("explorer.html", actions=list(ACTIONS.values()))


async def show(visit: Visit, form: Filled | None = None) -> PageContent:
    """Show an action with a form of its parameters."""
    if form is None:
        hour = str(visit.now_ms + _AN_HOUR_MS)
        form = {"InstanceId": visit.cloud.instance_id, "RegionId": visit.cloud.region, "ExpireTime": hour}
    return PageContent.of("explorer_action.html", action=_action(visit), typed=form, secret_names=SECRETS)


async def call(visit: Visit, form: CallForm) -> PageContent:
    """Call an action, and show all of it; one that changes something is asked about first."""
    action = _action(visit)
    place = f"{ADDRESS}/{action.name}#confirmed"
    if form.confirmed:
        sealed = pending_form.unseal(visit.app[KEYS], form.confirmed, visit.now_ms)
        if sealed.path != place:
            # What was sealed for another page was never shown as what will be called.
            raise InvalidRequest("this form was for another page")
        form = convert(MultiDict(sealed.fields), CallForm)
        return await _call(visit, action, form)
    parameters = _parameters(action, form)
    if not form.anyway and (wrong := problems(action, parameters)):
        raise InvalidRequest(join_sentences(wrong))
    if not action.changes:
        return await _call(visit, action, form)
    confirmed = pending_form.seal(visit.app[KEYS], place, MultiDict(_fields(form)), visit.now_ms)
    if not confirmed:
        raise InvalidRequest("this is more than can be asked about: shorten it")
    return PageContent.of(
        "explorer_ask.html",
        action=action,
        parameters=_veiled(parameters),
        form=form,
        confirmed=confirmed,
        typed=_typed(form),
        secret_names=SECRETS,
    )


async def _call(visit: Visit, action: Action, form: CallForm) -> PageContent:
    parameters = _parameters(action, form)
    deadline = asyncio.get_running_loop().time() + _CALL_WITHIN_S
    called = await visit.app[EXPLORER].call_action(
        action, parameters, form.format, actor=visit.actor, deadline=deadline
    )
    return PageContent.of(
        "explorer_answer.html",
        action=action,
        called=called,
        url=visit.cloud.url,
        secrets=form.show_secrets,
        typed=_typed(form),
        secret_names=SECRETS,
        **_looked_at(called, secrets=form.show_secrets),
        **_samples(visit, action, parameters, called, form),
    )


def _looked_at(called: Called, *, secrets: bool) -> Mapping[str, Any]:
    """Return request and answer as they are shown."""
    sent, received = called.sent, called.received
    compared = received.compare(sent) if received and sent else ""
    if not secrets and sent:
        sent, received = sent.hidden(), received.hidden(sent) if received else None
    refusal = called.error or (received.refusal if received else None)
    return {
        "sent": sent,
        "refusal": refusal,
        "compared": compared,
        "body": received.raw.body.decode(errors="replace") if received else "",
        "pretty": received.pretty() if received and not received.refusal else "",
        "http_status": received.raw.status if received else 0,
        "headers": [(name, received.raw.headers[name]) for name in _HEADERS if name in received.raw.headers]
        if received
        else [],
    }


def _samples(
    visit: Visit, action: Action, parameters: Mapping[str, str], called: Called, form: CallForm
) -> Mapping[str, Any]:
    url, region = visit.cloud.url, visit.cloud.region
    sent = called.sent if form.show_secrets or not called.sent else called.sent.hidden()
    return {
        "curl": samples.curl(url, sent) if sent else "",
        "command": samples.command(action, parameters, xml=form.format == "XML"),
        "python": samples.python(
            action, parameters, url, region, temporary=sent is not None and "SecurityToken" in sent.parameters
        ),
    }


def _action(visit: Visit) -> Action:
    action = ACTIONS.get(visit.path["action"])
    if action is None:
        raise NotFound("there is no such action")
    return action


def _parameters(action: Action, form: CallForm) -> dict[str, str]:
    """Return what the form holds for this action, as it is sent; what was left empty is not."""
    parameters: dict[str, str] = {}
    for each in action.parameters:
        text = _text(form, each)
        if each.kind == "RepeatList":
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            parameters |= {f"{each.name}.{number}": line for number, line in enumerate(lines, 1)}
        elif text:
            parameters[each.name] = text
    return parameters


def _text(form: CallForm, parameter: Parameter) -> str:
    value = getattr(form, parameter.name)
    return value.reveal() if isinstance(value, Secret) else str(value)


def _fields(form: CallForm) -> dict[str, str]:
    """Return a form's fields as a browser sent them."""
    boxes = {"anyway": form.anyway, "show_secrets": form.show_secrets}
    return {
        **{name: _text(form, each) for name, each in _BY_NAME.items()},
        **{name: "true" for name, ticked in boxes.items() if ticked},
        "format": form.format,
    }


def _typed(form: CallForm) -> dict[str, str]:
    """Return a form's fields as they may be shown again."""
    return {name: value for name, value in _fields(form).items() if name not in SECRETS}


def _veiled(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return parameters as a page may show them: nothing instead of a secret."""
    return {name: "" if name in SECRETS else value for name, value in parameters.items()}
