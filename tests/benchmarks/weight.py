"""The size of a live token in Redis, in bytes: by the growth of used memory, and by key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

KINDS: Final = {
    "t": "record",
    "g": "grant pointer",
    "c": "device's index",
    "r": "role's index",
    "x": "shard's index",
    "n": "device's hour",
    "mac": "look-up",
    "f": "application",
    "j": "used assertion",
}
_KIND: Final = re.compile(r"(?:\{s\d+\}:)?([a-z]+)(?::|$)")
_OF_INSTANCES: Final = re.compile(r"\{(?:q|stats|audit)\}:|.*:a:shipped$")
"""Keys that come and go by the clock, whatever is issued: quotas, counters, and how far the audit is in the log."""


@dataclass(frozen=True)
class Weight:
    """Bytes per token: growth of ``used_memory``, and ``MEMORY USAGE`` by kind of key."""

    tokens: int
    used_memory: float
    keys: Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """The memory of Redis at one moment."""

    used_memory: int
    keys: frozenset[bytes]


async def look(client: Redis) -> Look:
    """Measure the memory of Redis now."""
    used = int((await client.info("memory"))["used_memory"])
    return Look(used, frozenset([key async for key in client.scan_iter(count=1000)]))


async def difference(client: Redis, before: Look, tokens: int) -> Weight:
    """Return the growth since then, divided by this many tokens; keys that no token causes are left out."""
    after = await look(client)
    by_kind: Counter[str] = Counter()
    for key in after.keys - before.keys:
        name = key.decode()
        if _OF_INSTANCES.match(name):
            continue
        match = _KIND.match(name)
        by_kind[KINDS.get(match[1], "other") if match else "other"] += await client.memory_usage(key, samples=0) or 0
    return Weight(
        tokens=tokens,
        used_memory=(after.used_memory - before.used_memory) / tokens,
        keys={kind: size / tokens for kind, size in by_kind.most_common()},
    )
