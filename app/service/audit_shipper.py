"""Makes the log from the audit: each entry of the streams becomes one line ``audit``, at least once.

One instance of the deployment ships at a time, by a lease; when it dies, another goes on within seconds from the last
saved positions. A position is saved after the lines are out, so a crash in between repeats lines under the same ID and
loses none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from app.errors import Unavailable
from app.model.times import iso_time
from app.store.audit import STREAMS, AuditEntry
from app.store.audit_shipping import BATCH, AuditShipping, UnshippedEntries

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often the streams are read while nothing happens, and how often an instance without the lease asks for it."""

LAST_WITHIN_S: Final = 0.5
"""How long an instance that stops ships what happened last; what is left then another instance ships, or the next."""


class AuditShipper:
    """Ships the audit while this instance has the lease."""

    def __init__(self, shipping: AuditShipping) -> None:
        """Keep lease and positions in ``shipping``."""
        self._shipping = shipping
        self._instance = secrets.token_urlsafe(8)
        self._unsaved: list[UnshippedEntries] = []
        self._position_refused = False

    async def ship_entries(self) -> None:
        """Ship until cancelled; then save what is written and give the lease back."""
        try:
            while True:
                try:
                    more = await self.ship_round()
                except Unavailable as error:
                    self._report(error)
                    more = False
                await asyncio.sleep(0 if more else LOOK_EVERY_S)
        finally:
            with suppress(Unavailable):
                await self._save()
                await self._shipping.release_lease(self._instance)

    async def ship_last_entries(self) -> None:
        """Ship what is left when nothing more happens at this instance, unless another has the lease."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LAST_WITHIN_S):
                while await self.ship_round():
                    pass
                await self._shipping.release_lease(self._instance)

    async def ship_round(self) -> bool:
        """Write one batch of each stream to the log and save the positions; True if there are more entries.

        While Redis refuses to save a position nothing more is read: the same lines would be repeated without end.
        Raises ``Unavailable``.
        """
        await self._save()
        if not await self._shipping.hold_lease(self._instance):
            return False
        unshipped = await self._shipping.read_unshipped()
        for batch in sorted(unshipped, key=lambda batch: batch.entries[0].at_ms):
            _write(batch)
            self._unsaved.append(batch)
            await asyncio.sleep(0)  # requests need not wait for more than one batch
        await self._save()
        return any(len(batch.entries) == BATCH for batch in unshipped)

    async def _save(self) -> None:
        if self._unsaved:
            await self._shipping.save_shipped(self._unsaved)
            self._unsaved.clear()
            self._position_refused = False

    def _report(self, error: Unavailable) -> None:
        """Log, once, that positions cannot be saved; that Redis is away is logged by the store."""
        if self._unsaved and not self._position_refused:
            self._position_refused = True
            log.warning("audit_position_not_saved", streams=_names(self._unsaved), cause=error.cause)
        else:
            log.debug("audit_not_shipped", cause=error.cause)


def _write(batch: UnshippedEntries) -> None:
    if batch.lost:
        log.error("audit_entries_lost", stream=STREAMS[batch.stream], count=batch.lost)
    for entry in batch.entries:
        write_entry(entry)


def write_entry(entry: AuditEntry) -> None:
    """Write one entry to the log."""
    figures = {"request_id": entry.request_id or None, "revoked": entry.revoked, "job": entry.job or None}
    log.info(
        "audit",
        id=entry.id,
        at=iso_time(entry.at_ms),
        who=entry.who,
        what=entry.what,
        client_id=entry.client_id,
        handle=entry.handle,
        detail=entry.detail,
        **{name: figure for name, figure in figures.items() if figure is not None},
    )


def _names(batches: Sequence[UnshippedEntries]) -> list[str]:
    return [STREAMS[batch.stream] for batch in batches]
