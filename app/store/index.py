"""Finding the tokens of a selection: counting them, listing them page by page, and going through a shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from app.model.selections import Kind, Selection
from app.store.connection import Store
from app.store.keys import ALL_SHARDS, Handle, Shard
from app.store.records import TokenRecord
from app.store.tokens import Tokens

MAX_DIGITS: Final = 15
"""Any longer number could not stand exactly in an index."""

CHUNK: Final = 200
"""Records read at a time, so that neither Redis nor this process is held for long."""

Progress = Callable[[int, int], None]
"""Told as a search goes on: shards gone through, tokens found."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the order of an index: by expiry (Unix ms; by turn in a queue), then by handle.

    It stays where it is whatever is added, removed or restarted meanwhile. That is why an index is not read with ZSCAN,
    whose promise ends with the process of Redis.
    """

    expires_at_ms: int = 0
    handle: str = ""

    @classmethod
    def parse(cls, cursor: str) -> Self:
        """Read a cursor. Raises ``ValueError``."""
        expires_at_ms, _, handle = cursor.partition(".")
        if not expires_at_ms.isascii() or not expires_at_ms.isdigit() or len(expires_at_ms) > MAX_DIGITS:
            raise ValueError("no cursor of this list")
        return cls(int(expires_at_ms), handle)

    def __str__(self) -> str:
        return f"{self.expires_at_ms}.{self.handle}"


@dataclass(frozen=True, slots=True)
class Page:
    """Some tokens, and the cursor with which to ask for the next; empty at the end."""

    records: tuple[TokenRecord, ...]
    next_cursor: str


class Index:
    """The indexes of all records, by expiry, and those by role and client ID."""

    def __init__(self, store: Store, tokens: Tokens) -> None:
        """Read through ``store``; ``tokens`` tells what a record is."""
        self._store = store
        self._tokens = tokens

    async def count(self, selection: Selection, progress: Progress | None = None) -> int:
        """Count the live tokens of a selection and what is being applied for. Raises ``Unavailable``.

        Only the search for a topic takes long enough for ``progress`` to be told. What a floor took and its job has not
        come to yet is still counted.
        """
        if selection.kind is Kind.HANDLE:
            record = await self._tokens.read(selection.value)
            return int(record is not None and record.state != "revoked")
        if selection.kind is not Kind.TOPIC:
            now_ms = self._store.clock.now_ms()
            keys = _keys(selection, ALL_SHARDS)
            return sum(await self._store.each([("ZCOUNT", key, now_ms, "+inf") for key in keys]))
        found = 0
        for number, shard in enumerate(ALL_SHARDS, 1):
            async for handles in self.chunks(selection, shard):
                found += len(handles)
            if progress:
                progress(number, found)
        return found

    async def page(self, selection: Selection, cursor: str, limit: int, *, budget_s: float) -> Page:
        """Return live tokens by expiry, the first to expire first; an empty ``cursor`` begins.

        After ``budget_s`` a page is returned as far as it has come, which may be nothing yet but a cursor. Raises
        ``ValueError`` for a cursor that is none, and ``Unavailable``.
        """
        place = Place.parse(cursor) if cursor else Place(self._store.clock.now_ms())
        if selection.kind is Kind.HANDLE:
            record = await self._tokens.read(selection.value)
            return Page((record,) if record and record.state == "live" else (), "")
        keys = _keys(selection, ALL_SHARDS)
        size = CHUNK if selection.kind is Kind.TOPIC else limit
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        records: list[TokenRecord] = []
        while True:
            places = await self.after(keys, place, size)
            for record in await self._tokens.read_all([Handle(each.handle) for each in places]):
                if record and record.state == "live" and _means(selection, record.scope):
                    records.append(record)
                    if len(records) == limit:
                        return Page(tuple(records), str(Place(record.expires_at_ms, record.handle)))
            if len(places) < size:
                return Page(tuple(records), "")
            place = places[-1]
            if loop.time() > until:
                return Page(tuple(records), str(place))

    async def page_of(self, keys: Sequence[str], cursor: str, limit: int) -> Page:
        """Return the records of any indexes, in their order. Raises as ``page``."""
        places = await self.after(keys, Place.parse(cursor) if cursor else Place(), limit)
        records = await self._tokens.read_all([Handle(each.handle) for each in places])
        return Page(tuple(record for record in records if record), str(places[-1]) if len(places) == limit else "")

    async def chunks(self, selection: Selection, shard: Shard) -> AsyncIterator[list[Handle]]:
        """Go through a shard: yield, some at a time, all of the selection that was there from begin to end.

        Records are included that are revoked or being applied for. Raises ``Unavailable``.
        """
        place = Place()
        keys = _keys(selection, (shard,))
        while places := await self.after(keys, place, CHUNK):
            place = places[-1]
            handles = [Handle(each.handle) for each in places]
            if selection.kind is Kind.TOPIC:
                scopes = await self._store.each([("HGET", shard.token(handle), "scope") for handle in handles])
                handles = [handle for handle, scope in zip(handles, scopes, strict=True) if _means(selection, scope)]
            yield handles

    async def after(self, keys: Sequence[str], place: Place, limit: int) -> list[Place]:
        """Return the first ``limit`` places after ``place`` in all these indexes together. Raises ``Unavailable``."""
        found: list[Place] = []
        counts = dict.fromkeys(keys, limit)
        while counts:
            rows = await self._store.each(
                [
                    ("ZRANGE", key, place.expires_at_ms, "+inf", "BYSCORE", "LIMIT", 0, count, "WITHSCORES")
                    for key, count in counts.items()
                ]
            )
            again: dict[str, int] = {}
            for (key, count), row in zip(counts.items(), rows, strict=True):
                places = [Place(int(score), handle) for handle, score in zip(row[::2], row[1::2], strict=True)]
                beyond = [each for each in places if each > place]
                if len(beyond) < limit and len(places) == count:
                    # Others of the very same millisecond come before it.
                    again[key] = count + limit
                else:
                    found += beyond
            counts = again
        return sorted(found)[:limit]


def _keys(selection: Selection, shards: Sequence[Shard]) -> list[str]:
    if selection.kind is Kind.CLIENT_ID:
        return [Shard.of(selection.value).live(selection.value)]
    if selection.kind is Kind.ROLE:
        return [shard.role(selection.value) for shard in shards]
    return [shard.everything for shard in shards]


def _means(selection: Selection, scope: str | None) -> bool:
    return selection.kind is not Kind.TOPIC or (scope is not None and selection.reaches(scope))
