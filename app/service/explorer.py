"""Calling the cloud by hand: any action, with any parameters, recorded before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from app.cloud.client import CloudClient
from app.cloud.errors import CloudError
from app.cloud.exchange import Received, Sent
from app.model.actors import Actor
from app.model.sanitize import sanitize_for_log
from app.rpc.catalog import SECRETS, Action
from app.store.audit import AuditStore, Event, EventKind, NewEntry
from app.store.redis_keys import OPERATORS_AUDIT

_MOST_CHARS: Final = 100
"""Of one parameter in the audit."""


@dataclass(frozen=True)
class ExplorerCall:
    """A call and its answer, or the error if there was none.

    ``sent`` is None if nothing went out. ``took_s`` is from then to the answer, in seconds.
    """

    sent: Sent | None
    received: Received | None
    error: CloudError | None
    took_s: float


class Explorer:
    """Calls the cloud for an admin."""

    def __init__(self, cloud: CloudClient, audit: AuditStore) -> None:
        """Call through ``cloud``, within its quotas, and record calls in ``audit``."""
        self._cloud = cloud
        self._audit = audit

    async def call_action(
        self,
        action: Action,
        parameters: Mapping[str, str],
        format_: Literal["JSON", "XML"],
        *,
        actor: Actor,
        deadline: float,
    ) -> ExplorerCall:
        """Call ``action`` once, with parameters that the catalog need not allow. ``deadline`` is loop time in seconds.

        Raises ``Unavailable``, and then nothing was sent.
        """
        event = Event(actor, EventKind.CALLED, _detail(action, parameters))
        # First, so that what was sent is recorded even if Redis goes away meanwhile.
        await self._audit.append([NewEntry(OPERATORS_AUDIT, event)])
        clock = asyncio.get_running_loop().time
        sent: list[Sent] = []
        began = clock()

        def sending(form: bytes) -> None:
            nonlocal began
            sent.append(Sent(form))
            began = clock()

        received = error = None
        try:
            call = self._cloud.call(
                action.name, parameters, deadline=deadline, format_=format_, checked=False, sending=sending
            )
            # In a task of its own, outside the operators' share of the loop: a permit is void in moments.
            raw = await asyncio.create_task(call)
            received = Received(action, raw)
        except CloudError as failed:
            error = failed
        return ExplorerCall(sent[0] if sent else None, received, error, clock() - began)


def _detail(action: Action, parameters: Mapping[str, str]) -> str:
    """Return what was called, without secrets and without a message's payload."""
    shown = (
        f"{name} of {len(value)} characters" if name == "Payload" else f"{name}={sanitize_for_log(value)[:_MOST_CHARS]}"
        for name, value in parameters.items()
        if name not in SECRETS
    )
    return " ".join((action.name, *shown))
