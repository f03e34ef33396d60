"""Finding the tokens of a selection: counting them, listing them page by page, and going through a shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from app.model.selections import Selection, SelectionKind
from app.store.records import TokenRecord
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.store import Store
from app.store.tokens import Tokens

MAX_DIGITS: Final = 15
"""Any longer number could not stand exactly in an index."""

CHUNK: Final = 200
"""Records read at a time, so that neither Redis nor this process is held for long."""

SEARCHED: Final = 500
"""So many a search for a topic looks at in one go: of over a million only that gets far in a second."""

SAMPLE: Final = 50
"""Scopes that a survey brings along."""

SPARE: Final = 8
"""So many more than its share are asked of each index that is read beside others."""

Progress = Callable[[int, int], None]
"""Told as a search goes on: shards gone through, tokens found."""


class IndexCursor(NamedTuple):
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
class TokenPage:
    """Some tokens, and the cursor with which to ask for the next; empty at the end."""

    records: tuple[TokenRecord, ...]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Survey:
    """How many tokens there are of a selection, of how many devices, and the scopes of some.

    Unless it is ``whole`` there may be more of either.
    """

    tokens: int
    devices: int
    scopes: tuple[str, ...]
    whole: bool


class TokenIndex:
    """The indexes of all records, by expiry, and those by role and client ID."""

    def __init__(self, store: Store, tokens: Tokens) -> None:
        """Read through ``store``; ``tokens`` tells what a record is."""
        self._redis = store.background
        self._clock = store.clock
        self._tokens = tokens

    async def count(self, selection: Selection, progress: Progress | None = None) -> int:
        """Count the live tokens of a selection and what is being applied for. Raises ``Unavailable``.

        Only the search for a topic takes long enough for ``progress`` to be told. What a floor took and its job has not
        come to yet is still counted.
        """
        if selection.kind is SelectionKind.HANDLE:
            record = await self._tokens.read(selection.value)
            return int(record is not None and record.state != "revoked")
        if selection.kind is not SelectionKind.TOPIC:
            now_ms = self._clock.now_ms()
            keys = _keys(selection, ALL_SHARDS)
            return sum(await self._redis.pipeline([("ZCOUNT", key, now_ms, "+inf") for key in keys]))
        found = 0
        for number, shard in enumerate(ALL_SHARDS, 1):
            async for handles in self.chunks(selection, shard):
                found += len(handles)
            if progress:
                progress(number, found)
        return found

    async def page(self, selection: Selection, cursor: str, limit: int, *, budget_s: float) -> TokenPage:
        """Return live tokens by expiry, the first to expire first; an empty ``cursor`` begins.

        After ``budget_s`` a page is returned as far as it has come, which may be nothing yet but a cursor. Raises
        ``ValueError`` for a cursor that is none, and ``Unavailable``.
        """
        place = IndexCursor.parse(cursor) if cursor else IndexCursor(self._clock.now_ms())
        if selection.kind is SelectionKind.HANDLE:
            record = await self._tokens.read(selection.value)
            return TokenPage((record,) if record and record.state == "live" else (), "")
        keys = _keys(selection, ALL_SHARDS)
        size = SEARCHED if selection.kind is SelectionKind.TOPIC else limit
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        records: list[TokenRecord] = []
        while True:
            places = await self.after(keys, place, size)
            handles = await self._meant(selection, [Handle(each.handle) for each in places])
            # Of a search that finds much no more is read than the page can hold.
            for start in range(0, len(handles), limit):
                for record in await self._tokens.read_all(handles[start : start + limit]):
                    if record and record.state == "live":
                        records.append(record)
                        if len(records) == limit:
                            return TokenPage(tuple(records), str(IndexCursor(record.expires_at_ms, record.handle)))
            if len(places) < size:
                return TokenPage(tuple(records), "")
            place = places[-1]
            if loop.time() > until:
                return TokenPage(tuple(records), str(place))

    async def how_far(self, cursor: str) -> tuple[int, int]:
        """Tell how many records a list of everything has behind it at a cursor, and how many there are.

        Raises ``ValueError`` and ``Unavailable``.
        """
        place, now_ms = IndexCursor.parse(cursor), self._clock.now_ms()
        keys = _keys(Selection.of_everything(), ALL_SHARDS)
        rows = await self._redis.pipeline(
            [("ZCOUNT", key, now_ms, until) for until in (place.expires_at_ms, "+inf") for key in keys]
        )
        return sum(rows[: len(keys)]), sum(rows[len(keys) :])

    async def survey(self, selection: Selection, *, budget_s: float) -> Survey:
        """Go through a selection to see how many tokens, of how many devices; after ``budget_s`` as far as it came.

        Raises ``Unavailable``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        tokens, devices = 0, 0
        scopes: list[str] = []
        for shard in [Shard.of(selection.value)] if selection.kind is SelectionKind.CLIENT_ID else ALL_SHARDS:
            seen: set[str] = set()  # a device's tokens all lie in one shard
            async for handles in self.chunks(selection, shard):
                rows = await self._redis.pipeline(
                    [("HMGET", shard.token(handle), "client_id", "scope") for handle in handles]
                )
                known = [(client_id, scope) for client_id, scope in rows if client_id and scope]
                tokens += len(known)
                seen |= {client_id for client_id, _ in known}
                scopes += [scope for _, scope in known[: SAMPLE - len(scopes)]]
                if loop.time() > until:
                    return Survey(tokens, devices + len(seen), tuple(scopes), whole=False)
            devices += len(seen)
        return Survey(tokens, devices, tuple(scopes), whole=True)

    async def page_of(self, keys: Sequence[str], cursor: str, limit: int) -> TokenPage:
        """Return the records of any indexes, in their order. Raises as ``page``."""
        places = await self.after(keys, IndexCursor.parse(cursor) if cursor else IndexCursor(), limit)
        records = await self._tokens.read_all([Handle(each.handle) for each in places])
        return TokenPage(tuple(record for record in records if record), str(places[-1]) if len(places) == limit else "")

    async def chunks(self, selection: Selection, shard: Shard) -> AsyncIterator[list[Handle]]:
        """Go through a shard: yield, some at a time, all of the selection that was there from begin to end.

        Records are included that are revoked or being applied for. Raises ``Unavailable``.
        """
        place = IndexCursor()
        keys = _keys(selection, (shard,))
        while places := await self.after(keys, place, CHUNK):
            place = places[-1]
            handles = [Handle(each.handle) for each in places]
            yield await self._meant(selection, handles)

    async def _meant(self, selection: Selection, handles: Sequence[Handle]) -> list[Handle]:
        """Of records in an index that serves a selection, return those that it means."""
        if selection.kind is not SelectionKind.TOPIC or not handles:
            return list(handles)
        scopes = await self._redis.pipeline(
            [("HGET", Shard(int(handle[:2])).token(handle), "scope") for handle in handles]
        )
        return [handle for handle, scope in zip(handles, scopes, strict=True) if scope and selection.reaches(scope)]

    async def after(self, keys: Sequence[str], place: IndexCursor, limit: int) -> list[IndexCursor]:
        """Return the first ``limit`` places after ``place`` in all these indexes together. Raises ``Unavailable``."""
        found: dict[str, list[IndexCursor]] = {}
        known_to: dict[str, IndexCursor] = {}
        # Their share of the page each, and some more, for no two indexes are alike.
        counts = dict.fromkeys(keys, min(limit, 2 * limit // len(keys) + SPARE))
        short = list(keys)
        while True:
            rows = await self._redis.pipeline(
                [
                    ("ZRANGE", key, place.expires_at_ms, "+inf", "BYSCORE", "LIMIT", 0, counts[key], "WITHSCORES")
                    for key in short
                ]
            )
            for key, row in zip(short, rows, strict=True):
                places = [IndexCursor(int(score), handle) for handle, score in zip(row[::2], row[1::2], strict=True)]
                # Others of the very same millisecond stand before the place, and are behind us.
                found[key] = [each for each in places if each > place]
                known_to.pop(key, None)
                if len(places) == counts[key]:
                    known_to[key] = places[-1]
            first = sorted(each for of_key in found.values() for each in of_key)[:limit]
            short = [key for key, last in known_to.items() if len(first) < limit or last < first[-1]]
            if not short:
                return first
            counts |= {key: 4 * counts[key] for key in short}


def _keys(selection: Selection, shards: Sequence[Shard]) -> list[str]:
    if selection.kind is SelectionKind.CLIENT_ID:
        return [Shard.of(selection.value).live(selection.value)]
    if selection.kind is SelectionKind.ROLE:
        return [shard.role(selection.value) for shard in shards]
    return [shard.everything for shard in shards]
