"""Refusals in the audit: collected while requests are answered, and written once a second, in bounded number."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from app.errors import (
    InsufficientScope,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    InvalidToken,
    Refusal,
    TooManyFailures,
    TooManyRequests,
)
from app.model.actors import STRANGER, Actor
from app.model.sanitize import sanitize_for_log
from app.service.api_keys import Bearer
from app.service.audit import EventRecorder
from app.service.client_credentials import ClientCredentials, claimed_client_id
from app.store.audit import AuditStore, Event, EventKind, NewEntry
from app.store.redis_keys import REFUSED_AUDIT, STRANGERS_AUDIT

MOST_AT_ONCE: Final = 200
"""Different refusals written at once; equal refusals are one entry with their number."""

WRITE_EVERY_S: Final = 1.0
MAX_DETAIL_CHARS: Final = 200

_AUDITED: Final = (InsufficientScope, InvalidClient, InvalidRequest, InvalidScope, InvalidToken, TooManyRequests)
"""What the caller did wrong; an outage of this server is not that."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """A refusal as it is recorded; refusals that differ only in detail and request ID are counted as one."""

    stream: str
    who: str
    client_id: str
    code: str
    detail: str = field(compare=False)
    request_id: str = field(compare=False)


class Refusals:
    """Collects refusals and writes them once a second, so that a flood of them costs Redis little."""

    def __init__(self, audit: AuditStore) -> None:
        """Write to ``audit``."""
        self._recorder = EventRecorder(audit)
        self._waiting: dict[_Refused, int] = {}
        self._left_out = 0
        self._any_noted = asyncio.Event()

    @contextmanager
    def of(self, caller: ClientCredentials | Bearer, *, request_id: str = "") -> Iterator[None]:
        """Note a refusal that the block raises. Equal refusals keep the first one's request ID. Nothing is awaited."""
        try:
            yield
        except _AUDITED as refusal:
            self._note(_refused(caller, refusal, request_id))
            raise

    async def write_refusals(self) -> None:
        """Write until cancelled, and then what is left."""
        try:
            while True:
                await self._any_noted.wait()
                self._any_noted.clear()
                await self._write()
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            await self._write()

    def _note(self, refused: _Refused) -> None:
        if refused in self._waiting or len(self._waiting) < MOST_AT_ONCE:
            self._waiting[refused] = self._waiting.get(refused, 0) + 1
        else:
            self._left_out += 1
        self._any_noted.set()

    async def _write(self) -> None:
        waiting, self._waiting = self._waiting, {}
        entries = [NewEntry(each.stream, _event(each, times), each.client_id) for each, times in waiting.items()]
        if self._left_out:
            left_out = f"{self._left_out} more refusals in this second"
            entries.append(NewEntry(STRANGERS_AUDIT, Event(Actor(STRANGER), EventKind.REFUSED, left_out)))
            self._left_out = 0
        if entries:
            await self._recorder.record(*entries)


def _refused(caller: ClientCredentials | Bearer, refusal: Refusal, request_id: str) -> _Refused:
    """Return who was refused what.

    A caller who has proved nothing is a stranger, also under the client ID of a device. A used assertion proves nothing
    either: it may be stolen.
    """
    detail = f"{refusal.code}: {refusal.cause or refusal.description}"
    if isinstance(refusal, InsufficientScope):
        return _Refused(
            REFUSED_AUDIT, refusal.cause, "", refusal.code, f"{refusal.code}: {refusal.description}", request_id
        )
    client_id = "" if isinstance(caller, Bearer) else claimed_client_id(caller)
    if not client_id or isinstance(refusal, InvalidClient | TooManyFailures):
        return _Refused(STRANGERS_AUDIT, STRANGER, client_id, refusal.cause or refusal.code, detail, request_id)
    return _Refused(REFUSED_AUDIT, f"device:{client_id}", client_id, refusal.code, detail, request_id)


def _event(refused: _Refused, times: int) -> Event:
    detail = sanitize_for_log(refused.detail)[:MAX_DETAIL_CHARS]
    actor = Actor(refused.who, refused.request_id)
    return Event(actor, EventKind.REFUSED, f"{detail} ({times} times)" if times > 1 else detail)
