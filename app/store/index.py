"""Finding the tokens of a selection: counting them, listing them page by page, and going through a shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from app.loop_share import in_slices
from app.model.selections import Selection, SelectionKind
from app.store.cursor import InvalidCursor
from app.store.merging import MergedLists, NextPart, ReadPart
from app.store.records import TokenRecord
from app.store.redis_client import RedisClient
from app.store.redis_keys import ALL_SHARDS, Handle, Shard
from app.store.store import Store
from app.store.tokens import Tokens

MAX_DIGITS: Final = 15
"""A longer number is not exact as a score."""

CHUNK: Final = 200
"""Records read at a time, so that neither Redis nor this process is held up for long."""

SAMPLE: Final = 50
"""Scopes that a survey returns at most."""

Progress = Callable[[int, int], None]
"""Called as a search goes on: with the shards searched and the tokens found so far."""


class IndexCursor(NamedTuple):
    """A position in the order of an index: by score (expiry in Unix ms; in a queue by its order), then by handle.

    It stays valid whatever is added, removed or restarted meanwhile. ZSCAN, whose cursor is valid only as long as the
    process of Redis lives, could not promise that.
    """

    expires_at_ms: int = 0
    handle: str = ""

    @classmethod
    def parse(cls, cursor: str) -> Self:
        """Read a cursor. Raises ``InvalidCursor``."""
        expires_at_ms, _, handle = cursor.partition(".")
        if not expires_at_ms.isascii() or not expires_at_ms.isdigit() or len(expires_at_ms) > MAX_DIGITS:
            raise InvalidCursor
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
    """How many tokens of a selection there are, of how many devices, and the scopes of some.

    Unless it is ``whole`` there may be more of either.
    """

    tokens: int
    devices: int
    scopes: tuple[str, ...]
    whole: bool


class TokenIndex:
    """The indexes of records by expiry: of all, of each role and of each device."""

    def __init__(self, store: Store, tokens: Tokens, *, client: RedisClient | None = None) -> None:
        """Read indexes through ``client``, by default that for searches, and records through ``tokens``."""
        self._redis = client or store.searches
        self._clock = store.clock
        self._tokens = tokens

    async def count_tokens(self, selection: Selection, progress: Progress | None = None) -> int:
        """Count the live tokens of a selection and what is being applied for. Raises ``Unavailable``.

        Only the search for a topic takes long enough to call ``progress``. Tokens below a watermark that their job has
        not come to yet are still counted.
        """
        if selection.kind is SelectionKind.HANDLE:
            record = await self._tokens.read_token(selection.value)
            return int(record is not None and record.state != "revoked")
        if selection.kind is not SelectionKind.TOPIC:
            now_ms = self._clock.now_ms()
            keys = _index_keys(selection, ALL_SHARDS)
            return sum(await self._redis.pipeline([("ZCOUNT", key, now_ms, "+inf") for key in keys]))
        found = 0
        for number, shard in enumerate(ALL_SHARDS, 1):
            async for handles in self.search_shard(selection, shard):
                found += len(handles)
            if progress:
                progress(number, found)
        return found

    async def list_tokens(self, selection: Selection, cursor: str, limit: int, *, budget_s: float) -> TokenPage:
        """Return live tokens, the first to expire first; an empty ``cursor`` begins.

        After ``budget_s`` seconds the page ends as far as it has come: it may be empty and yet not the last. Raises
        ``InvalidCursor`` and ``Unavailable``.
        """
        position = IndexCursor.parse(cursor) if cursor else IndexCursor(self._clock.now_ms())
        if selection.kind is SelectionKind.HANDLE:
            record = await self._tokens.read_token(selection.value)
            return TokenPage((record,) if record and record.state == "live" else (), "")
        merged = self.read_after(_index_keys(selection, ALL_SHARDS), position)
        size = CHUNK if selection.kind is SelectionKind.TOPIC else limit
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        records: list[TokenRecord] = []
        while True:
            cursors = await merged.take(size)
            async for record in self._read_live(selection, cursors, at_a_time=limit):
                records.append(record)
                if len(records) == limit:
                    return TokenPage(tuple(records), str(IndexCursor(record.expires_at_ms, record.handle)))
            if len(cursors) < size:
                return TokenPage(tuple(records), "")
            if loop.time() > until:
                return TokenPage(tuple(records), str(cursors[-1]))

    async def list_records(self, keys: Sequence[str], cursor: str, limit: int) -> TokenPage:
        """Return the records in any indexes or queues, in their order, whatever their state.

        Raises ``InvalidCursor`` and ``Unavailable``.
        """
        position = IndexCursor.parse(cursor) if cursor else IndexCursor()
        cursors = await self.read_after(keys, position).take(limit)
        records = await self._tokens.read_tokens([Handle(each.handle) for each in cursors])
        next_cursor = str(cursors[-1]) if len(cursors) == limit else ""
        return TokenPage(tuple(record for record in records if record), next_cursor)

    async def count_passed(self, cursor: str) -> tuple[int, int]:
        """Return how many records a list of everything has passed at a cursor, and how many there are.

        Raises ``InvalidCursor`` and ``Unavailable``.
        """
        position, now_ms = IndexCursor.parse(cursor), self._clock.now_ms()
        keys = _index_keys(Selection.of_everything(), ALL_SHARDS)
        counts = await self._redis.pipeline(
            [("ZCOUNT", key, now_ms, until) for until in (position.expires_at_ms, "+inf") for key in keys]
        )
        return sum(counts[: len(keys)]), sum(counts[len(keys) :])

    async def survey(self, selection: Selection, *, budget_s: float) -> Survey:
        """Count the tokens of a selection and their devices, for about ``budget_s`` seconds. Raises ``Unavailable``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        tokens, devices = 0, 0
        scopes: list[str] = []
        for shard in [Shard.of(selection.value)] if selection.kind is SelectionKind.CLIENT_ID else ALL_SHARDS:
            client_ids: set[str] = set()  # all tokens of a device are in one shard
            async for handles in self.search_shard(selection, shard):
                rows = await self._redis.pipeline(
                    [("HMGET", shard.token(handle), "client_id", "scope") for handle in handles]
                )
                known = [(client_id, scope) for client_id, scope in rows if client_id and scope]
                tokens += len(known)
                client_ids |= {client_id for client_id, _ in known}
                scopes += [scope for _, scope in known[: SAMPLE - len(scopes)]]
                if loop.time() > until:
                    return Survey(tokens, devices + len(client_ids), tuple(scopes), whole=False)
            devices += len(client_ids)
        return Survey(tokens, devices, tuple(scopes), whole=True)

    async def search_shard(self, selection: Selection, shard: Shard) -> AsyncIterator[list[Handle]]:
        """Yield, some at a time, the handles of the records of a selection that stay in a shard during the search.

        Among them are records that are being applied for or revoked. Raises ``Unavailable``.
        """
        merged = self.read_after(_index_keys(selection, (shard,)), IndexCursor())
        while cursors := await merged.take(CHUNK):
            yield await self._matching(selection, cursors)

    def read_after(self, keys: Sequence[str], position: IndexCursor) -> MergedLists[str, IndexCursor]:
        """Return the cursors after ``position`` in all these indexes together, to be read. Raises ``Unavailable``."""

        async def read(parts: Sequence[NextPart[str, IndexCursor]]) -> list[ReadPart[IndexCursor]]:
            after = [part.after or position for part in parts]
            rows = await self._redis.pipeline(
                [
                    ("ZRANGE", part.key, begin.expires_at_ms, "+inf", "BYSCORE", "LIMIT", 0, part.count, "WITHSCORES")
                    for part, begin in zip(parts, after, strict=True)
                ]
            )
            return [
                ReadPart(_cursors_behind(begin, row), is_last=len(row) < 2 * part.count)
                for part, begin, row in zip(parts, after, rows, strict=True)
            ]

        return MergedLists(keys, read, order=lambda cursor: cursor)

    async def _read_live(
        self, selection: Selection, cursors: Sequence[IndexCursor], *, at_a_time: int
    ) -> AsyncIterator[TokenRecord]:
        """Yield the live records of a selection among these. Reads ``at_a_time``, and stops when the caller does."""
        handles = await self._matching(selection, cursors)
        for start in range(0, len(handles), at_a_time):
            for record in await self._tokens.read_tokens(handles[start : start + at_a_time]):
                if record and record.state == "live":
                    yield record

    async def _matching(self, selection: Selection, cursors: Sequence[IndexCursor]) -> list[Handle]:
        """Of records in an index of a selection, return the handles of those that it selects."""
        handles = [Handle(cursor.handle) for cursor in cursors]
        if selection.kind is not SelectionKind.TOPIC:
            return handles
        keys = [Shard.of_known_handle(handle).token(handle) for handle in handles]
        scopes = await self._redis.pipeline([("HGET", key, "scope") for key in keys])
        found = in_slices(zip(handles, scopes, strict=True))
        return [handle async for handle, scope in found if scope and selection.reaches(scope)]


def _cursors_behind(position: IndexCursor, row: Sequence[str]) -> list[IndexCursor]:
    """Read an answer with scores. Others of the very same score come before the position, and are left out."""
    read = (IndexCursor(int(score), handle) for handle, score in zip(row[::2], row[1::2], strict=True))
    return [cursor for cursor in read if cursor > position]


def _index_keys(selection: Selection, shards: Sequence[Shard]) -> list[str]:
    if selection.kind is SelectionKind.CLIENT_ID:
        return [Shard.of(selection.value).device_index(selection.value)]
    if selection.kind is SelectionKind.ROLE:
        return [shard.role_index(selection.value) for shard in shards]
    return [shard.index for shard in shards]
