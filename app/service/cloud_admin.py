"""What operators do at the cloud by hand: group IDs, devices' credentials, connections, messages.

The guide's chapters 11 to 14, and CloseConnection. Whatever changed something, or may have, is recorded in the audit,
without secrets and without a message's payload.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from app.cloud.answers import CloudGroup, DeviceCredential
from app.cloud.client import CloudClient
from app.cloud.errors import RETRIED, CloudError, ErrorKind
from app.errors import CloudRefused, InvalidRequest, Refusal, Unavailable
from app.model.actors import Actor
from app.model.text import Text, _, join_sentences
from app.rpc.catalog import ACTIONS
from app.rpc.parameters import problems
from app.service.audit import EventRecorder, outcome_unknown
from app.store.audit import AuditStore, Event, EventKind, NewEntry
from app.store.redis_keys import OPERATORS_AUDIT, Shard

LOOK_WITHIN_S: Final = 1.5
"""A page waits no longer to learn whether a device is online: the rest of the page does not need the cloud."""

LIST_WITHIN_S: Final = 3.0
ACT_WITHIN_S: Final = 4.0
"""After an action without an answer a page also lists groups again: both fit into the time of one page."""

RECORD_WITHIN_S: Final = 1.0

_NO_CREDENTIAL: Final = _("the device may have no credential at the cloud: register one")
_MISSING_ACTION: Final = ("apinotsupport", "invalidaction", "invalidapi")

_Result = TypeVar("_Result")


class CloudAdmin:
    """Calls of the cloud by operators. Every method raises the refusals of ``refusal_of``."""

    def __init__(self, cloud: CloudClient, audit: AuditStore) -> None:
        """Call ``cloud``, within the quotas, and record changes in ``audit``."""
        self._cloud = cloud
        self._recorder = EventRecorder(audit)

    async def is_online(self, client_id: str) -> bool:
        """Return whether the device is connected now (13.1)."""
        return await self._look(partial(self._cloud.query_session, client_id), within_s=LOOK_WITHIN_S)

    async def get_credential(self, client_id: str) -> DeviceCredential:
        """Read the device's credential at the cloud (14.2)."""
        return await self._look(partial(self._cloud.get_device_credential, client_id), unknown=_NO_CREDENTIAL)

    async def register_credential(self, client_id: str, *, actor: Actor) -> DeviceCredential:
        """Register a credential for the device (14.1); an earlier one becomes invalid."""
        call = partial(self._cloud.register_device_credential, client_id)
        return await self._act(Event(actor, EventKind.CREDENTIAL_REGISTERED), client_id, call)

    async def refresh_credential(self, client_id: str, *, actor: Actor) -> DeviceCredential:
        """Replace the secret of the device's credential (14.4); the old one becomes invalid."""
        call = partial(self._cloud.refresh_device_credential, client_id)
        return await self._act(Event(actor, EventKind.CREDENTIAL_REFRESHED), client_id, call, unknown=_NO_CREDENTIAL)

    async def unregister_credential(self, client_id: str, *, actor: Actor) -> None:
        """Unregister the device's credential (14.3)."""
        call = partial(self._cloud.unregister_device_credential, client_id)
        await self._act(Event(actor, EventKind.CREDENTIAL_UNREGISTERED), client_id, call, unknown=_NO_CREDENTIAL)

    async def close_connection(self, client_id: str, *, actor: Actor) -> None:
        """Close the device's connection; the device may connect again with its token (FACTS 3.1)."""
        call = partial(self._cloud.close_connection, client_id)
        await self._act(Event(actor, EventKind.CONNECTION_CLOSED), client_id, call)

    async def send_message(self, client_id: str, topic: str, payload: str, *, actor: Actor) -> str:
        """Publish to a topic (12.1), recorded for this device; returns the message ID.

        Also raises ``InvalidRequest`` for an invalid topic or payload.
        """
        _check("SendMessage", MqttTopic=topic, Payload=payload)
        call = partial(self._cloud.send_message, topic, payload)
        return await self._act(Event(actor, EventKind.MESSAGE_SENT, f"to {topic}"), client_id, call)

    async def list_groups(self) -> tuple[CloudGroup, ...]:
        """List the instance's group IDs (11.2), by name."""
        return tuple(
            sorted(
                await self._look(self._cloud.list_group_ids, within_s=LIST_WITHIN_S), key=lambda group: group.group_id
            )
        )

    async def create_group(self, group_id: str, *, actor: Actor) -> None:
        """Create a group ID (11.1). Raises ``InvalidRequest`` too."""
        _check("CreateGroupId", GroupId=group_id)
        await self._act(
            Event(actor, EventKind.GROUP_CREATED, group_id), "", partial(self._cloud.create_group_id, group_id)
        )

    async def delete_group(self, group_id: str, *, actor: Actor) -> None:
        """Delete a group ID (11.3). Raises ``InvalidRequest`` too."""
        _check("DeleteGroupId", GroupId=group_id)
        await self._act(
            Event(actor, EventKind.GROUP_DELETED, group_id), "", partial(self._cloud.delete_group_id, group_id)
        )

    async def _look(
        self,
        call: Callable[..., Coroutine[Any, Any, _Result]],
        *,
        within_s: float = ACT_WITHIN_S,
        unknown: Text | None = None,
    ) -> _Result:
        try:
            return await _call_at_once(call, within_s=within_s)
        except CloudError as error:
            raise refusal_of(error, unknown=unknown, changes=False) from error

    async def _act(
        self,
        event: Event,
        client_id: str,
        call: Callable[..., Coroutine[Any, Any, _Result]],
        *,
        unknown: Text | None = None,
    ) -> _Result:
        try:
            result = await _call_at_once(call, within_s=ACT_WITHIN_S)
        except CloudError as error:
            if error.uncertain:
                unknown_outcome = outcome_unknown(error.code)
                detail = f"{event.detail}; {unknown_outcome}" if event.detail else unknown_outcome
                await self._record(replace(event, detail=detail), client_id)
            raise refusal_of(error, unknown=unknown) from error
        await self._record(event, client_id)
        return result

    async def _record(self, event: Event, client_id: str) -> None:
        """Record what was done. That cannot be taken back, so the log has to do where Redis is away."""
        stream = Shard.of(client_id).audit if client_id else OPERATORS_AUDIT
        await self._recorder.record(NewEntry(stream, event, client_id), within_s=RECORD_WITHIN_S)


async def _call_at_once(call: Callable[..., Coroutine[Any, Any, _Result]], *, within_s: float) -> _Result:
    """Call the cloud in a task of its own, outside the operators' share of the loop: a permit is void in moments."""
    return await asyncio.create_task(call(deadline=asyncio.get_running_loop().time() + within_s))


def refusal_of(error: CloudError, *, unknown: Text | None = None, changes: bool = True) -> Refusal:
    """Return the refusal for an error of the cloud, with its code, the probable cause and the cure.

    ``Unavailable`` where trying again helps, else ``CloudRefused``. ``unknown`` is the probable cause of a refused
    parameter; ``changes``: the call changes something, so it matters that it may have been carried out.
    """
    cause = unknown if unknown and error.kind is ErrorKind.PARAMETER else error.error_hint
    reason = _("%(code)s; %(cause)s", code=error.code, cause=cause) if cause else error.code
    if error.code.lower().startswith(_MISSING_ACTION):
        return CloudRefused(
            _("this cloud instance does not have this action (%(reason)s)", reason=reason), cause=str(error)
        )
    if error.uncertain and changes:
        return Unavailable(
            _("outcome unknown: the cloud's answer was lost, so check whether it was done (%(reason)s)", reason=reason),
            cause=str(error),
        )
    sentence = _("%(problem)s (%(reason)s)", problem=error.sentence, reason=reason)
    if error.kind in RETRIED:
        return Unavailable(sentence, cause=str(error), retry_after_s=max(1, math.ceil(error.retry_after_s or 1)))
    return CloudRefused(sentence, cause=str(error))


def _check(action: str, **parameters: str) -> None:
    if wrong := problems(ACTIONS[action], parameters):
        raise InvalidRequest(join_sentences(wrong))
