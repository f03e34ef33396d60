"""A Redis without sockets, for simulations: the store's Lua scripts, in this process, by a clock that a test moves.

The scripts are the product's own. Only the few commands that they use are written again here, in memory, and
``test_lua_redis.py`` holds them equal to a real server's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lupa.lua51 import LuaRuntime, lua_type

from app.store.script import Script

RUN_ID: Final = "0" * 40
_WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"


class LuaRedis:
    """Runs scripts on data in memory. ``now_us`` is the server's time in Unix microseconds."""

    def __init__(self, now_us: int = 1_790_000_000_000_000) -> None:
        self.now_us = now_us
        self.run_id = RUN_ID
        self.data: dict[str, Any] = {}
        """Strings, hashes (``dict``) and lists (``deque``), by key."""
        self._expires_us: dict[str, int] = {}
        self._lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False)
        self._lua.globals().redis = self._lua.table(call=self._call, pcall=self._call)
        self._compiled: dict[str, Callable[..., Any]] = {}

    def evaluate(self, text: str, *argv: str) -> Any:
        """Run a few lines of Lua with arguments and without keys, as EVAL does."""
        return _reply(self._lua.execute(f"return function(ARGV) {text}\nend")(self._lua.table_from(argv)))

    def run_script(
        self, script: Script, keys: Mapping[str, str | Sequence[str]], /, *, shift_ms: int = 0, **arguments: Any
    ) -> Any:
        """Run a script as ``RedisClient.run_script`` does; values come back as Redis would send them."""
        run = self._compiled.get(script.name)
        if run is None:
            # A local variable of the chunk is an upvalue of this function, so both tables are set for each run.
            text = script.text.partition("\n")[2]
            run = self._compiled[script.name] = self._lua.execute(f"return function(KEYS, ARGV) {text}\nend")
        argv = [_as_text(each) for each in (shift_ms, *script.arguments.order(arguments))]
        given = [_as_text(each) for each in script.keys.order(keys)]
        return _reply(run(self._lua.table_from(given), self._lua.table_from(argv)))

    def expires_in_us(self, key: str) -> int | None:
        """Return how long a key still lives; None: it has no TTL."""
        return self._expires_us[key] - self.now_us if key in self._expires_us else None

    def _call(self, name: str, *words: Any) -> Any:
        command = _COMMANDS[name.upper()]
        return self._answer(command(self, *map(_as_text, words)))

    def _answer(self, value: Any) -> Any:
        """Convert an answer as Redis does for Lua: nil is false, an array a table."""
        if value is None:
            return False
        if isinstance(value, list):
            return self._lua.table_from([False if each is None else each for each in value])
        return value

    def _get(self, key: str, type_: type) -> Any:
        expires_us = self._expires_us.get(key)
        if expires_us is not None and expires_us <= self.now_us:
            self._delete(key)
        value = self.data.get(key)
        if value is not None and not isinstance(value, type_):
            raise TypeError(_WRONG_TYPE)
        return value

    def _make(self, key: str, type_: type) -> Any:
        value = self._get(key, type_)
        if value is None:
            value = self.data[key] = type_()
        return value

    def _delete(self, key: str) -> int:
        self._expires_us.pop(key, None)
        return int(self.data.pop(key, None) is not None)

    def _drop_if_empty(self, key: str) -> None:
        if not self.data.get(key):
            self._delete(key)

    def time(self) -> list[str]:
        return [str(self.now_us // 1_000_000), str(self.now_us % 1_000_000)]

    def info(self, *_sections: str) -> str:
        return f"# Server\r\nredis_version:7.0.15\r\nrun_id:{self.run_id}\r\ntcp_port:6379\r\n"

    def get(self, key: str) -> str | None:
        value: str | None = self._get(key, str)
        return value

    def mget(self, *keys: str) -> list[str | None]:
        return [self.get(key) for key in keys]

    def set(self, key: str, value: str, *options: str) -> str:
        self._delete(key)
        self.data[key] = value
        if options:
            unit, count = options
            self._expires_us[key] = self.now_us + int(count) * {"PX": 1000, "EX": 1_000_000}[unit.upper()]
        return _OK

    def delete(self, *keys: str) -> int:
        return sum(self._get(key, object) is not None and self._delete(key) for key in keys)

    def pexpire(self, key: str, ms: str) -> int:
        return self._expire(key, self.now_us + int(ms) * 1000)

    def _expire(self, key: str, at_us: int) -> int:
        if self._get(key, object) is None:
            return 0
        self._expires_us[key] = at_us
        self._get(key, object)
        return 1

    def hgetall(self, key: str) -> list[str]:
        return [word for pair in (self._get(key, dict) or {}).items() for word in pair]

    def hset(self, key: str, *words: str) -> int:
        values = self._make(key, dict)
        before = len(values)
        values.update(zip(words[::2], words[1::2], strict=True))
        return len(values) - before

    def hdel(self, key: str, *fields: str) -> int:
        values = self._get(key, dict) or {}
        removed = sum(values.pop(field, None) is not None for field in fields)
        self._drop_if_empty(key)
        return removed

    def hvals(self, key: str) -> list[str]:
        return list((self._get(key, dict) or {}).values())

    def hincrby(self, key: str, field: str, by: str) -> int:
        values = self._make(key, dict)
        values[field] = str(int(values.get(field, 0)) + int(by))
        return int(values[field])

    def lpush(self, key: str, *values: str) -> int:
        items = self._make(key, deque)
        items.extendleft(values)
        return len(items)

    def lindex(self, key: str, index: str) -> str | None:
        items = self._get(key, deque) or ()
        place = int(index)
        return items[place] if -len(items) <= place < len(items) else None

    def lset(self, key: str, index: str, value: str) -> str:
        self._get(key, deque)[int(index)] = value
        return _OK

    def lrange(self, key: str, first: str, last: str) -> list[str]:
        items = self._get(key, deque) or ()
        start, end = _bounds(int(first), int(last), len(items))
        if end - start > len(items) // 2:
            return list(items)[start:end]
        return [items[place] for place in range(start, end)]

    def rpop(self, key: str, count: str) -> list[str] | None:
        items = self._get(key, deque)
        if not items:
            return None
        popped = [items.pop() for _ in range(min(len(items), int(count)))]
        self._drop_if_empty(key)
        return popped


_OK: Final = "OK"

_COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "TIME": LuaRedis.time,
    "INFO": LuaRedis.info,
    "GET": LuaRedis.get,
    "MGET": LuaRedis.mget,
    "SET": LuaRedis.set,
    "DEL": LuaRedis.delete,
    "PEXPIRE": LuaRedis.pexpire,
    "HGETALL": LuaRedis.hgetall,
    "HVALS": LuaRedis.hvals,
    "HSET": LuaRedis.hset,
    "HDEL": LuaRedis.hdel,
    "HINCRBY": LuaRedis.hincrby,
    "LPUSH": LuaRedis.lpush,
    "LINDEX": LuaRedis.lindex,
    "LSET": LuaRedis.lset,
    "LRANGE": LuaRedis.lrange,
    "RPOP": LuaRedis.rpop,
}


def _bounds(first: int, last: int, length: int) -> tuple[int, int]:
    """Return the half-open range that LRANGE's inclusive one, maybe from the end, means."""
    start = max(0, first + length if first < 0 else first)
    end = min(length, (last + length if last < 0 else last) + 1)
    return start, max(start, end)


def _as_text(value: Any) -> str:
    """Write a value as Lua hands it to Redis: a whole number without a fraction, another with all its digits."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1 << 53 else repr(value)
    return value if isinstance(value, str) else str(value)


def _reply(value: Any) -> Any:
    """Convert what a script returned as Redis does: a number loses its fraction, a table is an array up to its nil."""
    if value is False:
        return None
    if value is True:
        return 1
    if lua_type(value) == "table":
        return [_reply(value[place]) for place in range(1, len(value) + 1)]
    return int(value) if isinstance(value, float) else value
