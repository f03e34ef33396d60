"""``/admin/explorer``: any action of the cloud, its signed request and its answer."""

from __future__ import annotations

import asyncio
from typing import Final

from multidict import MultiDict

from app.errors import InvalidRequest, NotFound
from app.model.text import _
from app.rpc.catalog import ACTIONS, SECRETS, Action
from app.web.caller_limits import ANSWER_WITHIN_S
from app.web.console.explorer_answer import CallPlace, describe_call
from app.web.console.explorer_form import CallForm, without_secrets
from app.web.console.pending_form import PendingForm, seal_form, unseal_form
from app.web.console.results import PREFIX, PageContent
from app.web.conversion import FormValues, convert_fields
from app.web.route import AdminRequest

ADDRESS: Final = f"{PREFIX}/explorer"

_CALL_WITHIN_S: Final = ANSWER_WITHIN_S - 1
"""So that the page, which says what was sent, is made before its own time is up."""

_AN_HOUR_MS: Final = 3_600_000


async def show_actions(_request: AdminRequest) -> PageContent:
    """Show what can be called."""
    return PageContent.of("explorer.html", actions=list(ACTIONS.values()))


async def show_action(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show an action with a form of its parameters."""
    if form is None:
        cloud, in_an_hour = request.services.cloud, str(request.now_ms + _AN_HOUR_MS)
        form = {"InstanceId": cloud.instance_id, "RegionId": cloud.region, "ExpireTime": in_an_hour}
    return PageContent.of("explorer_action.html", action=_find_action(request), typed=form, secret_names=SECRETS)


async def call_action(request: AdminRequest, form: CallForm) -> PageContent:
    """Call an action, and show all of it; one that changes something is asked about first."""
    action = _find_action(request)
    if form.confirmed:
        return await _call(request, action, _confirmed_form(request, action, form.confirmed))
    form.checked_parameters(action)
    if action.changes:
        return _ask_to_confirm(request, action, form)
    return await _call(request, action, form)


async def _call(request: AdminRequest, action: Action, form: CallForm) -> PageContent:
    deadline = asyncio.get_running_loop().time() + _CALL_WITHIN_S
    called = await request.services.explorer.call_action(
        action, form.parameters(action), form.format, actor=request.actor, deadline=deadline
    )
    cloud = request.services.cloud
    return PageContent.of(
        "explorer_answer.html",
        action=action,
        called=called,
        url=cloud.url,
        secrets=form.show_secrets,
        typed=form.as_typed(),
        secret_names=SECRETS,
        **describe_call(action, called, form, CallPlace(cloud.url, cloud.region)),
    )


def _ask_to_confirm(request: AdminRequest, action: Action, form: CallForm) -> PageContent:
    """Show what would be called; the form is sealed into the page, so that no other is called than was shown."""
    pending = PendingForm(_confirmed_path(action), list(form.as_fields().items()), sent_at_ms=request.now_ms)
    confirmed = seal_form(request.services.stores.keys, pending)
    if not confirmed:
        raise InvalidRequest(_("these parameters are too long for a page that asks to confirm them: shorten them"))
    return PageContent.of(
        "explorer_ask.html",
        action=action,
        parameters=without_secrets(form.parameters(action)),
        form=form,
        confirmed=confirmed,
        typed=form.as_typed(),
        secret_names=SECRETS,
    )


def _confirmed_form(request: AdminRequest, action: Action, sealed: str) -> CallForm:
    pending = unseal_form(request.services.stores.keys, sealed, request.now_ms)
    if pending.path != _confirmed_path(action):
        # What was sealed for another page was never shown as what will be called.
        raise InvalidRequest(_("this form belongs to another page: open the page again and fill in its form"))
    return convert_fields(MultiDict(pending.fields), CallForm)


def _confirmed_path(action: Action) -> str:
    return f"{ADDRESS}/{action.name}#confirmed"


def _find_action(request: AdminRequest) -> Action:
    action = ACTIONS.get(request.path["action"])
    if action is None:
        raise NotFound(_("there is no such action"))
    return action
