from __future__ import annotations

from typing import Any

import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.lua_redis import LuaRedis

KEYS = {"string": ["s1", "s2"], "hash": ["h1", "h2"], "list": ["l1", "l2"]}
WORDS = st.sampled_from(["1", "2.5", "alpha", "beta"])
PLACES = st.integers(-4, 4).map(str)
TTL_MS = st.sampled_from(["50000", "90000"])


def command(kind: str, name: str, *arguments: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Return a strategy for one command on a key of this kind."""
    return st.tuples(st.just(name), st.sampled_from(KEYS[kind]), *arguments)


FIELDS = st.sampled_from(["f", "g"])
COMMANDS = st.one_of(
    command("string", "GET"),
    command("string", "MGET", st.sampled_from(KEYS["string"])),
    command("string", "SET", WORDS),
    command("string", "SET", WORDS, st.just("PX"), TTL_MS),
    command("string", "DEL"),
    command("string", "PEXPIRE", TTL_MS),
    command("hash", "PEXPIRE", st.just("0")),
    command("hash", "HSET", FIELDS, WORDS),
    command("hash", "HSET", FIELDS, WORDS, FIELDS, WORDS),
    command("hash", "HGETALL"),
    command("hash", "HVALS"),
    command("hash", "HDEL", FIELDS),
    command("hash", "HDEL", FIELDS, FIELDS),
    command("hash", "HINCRBY", st.just("count"), st.sampled_from(["1", "-2"])),
    command("list", "LPUSH", WORDS),
    command("list", "LPUSH", WORDS, WORDS),
    command("list", "LINDEX", PLACES),
    command("list", "LRANGE", PLACES, PLACES),
    command("list", "RPOP", st.sampled_from(["1", "2", "9"])),
    command("list", "DEL"),
)


@settings(max_examples=60)
@given(commands=st.lists(COMMANDS, min_size=5, max_size=40))
def test_commands_answer_as_a_real_server_does(valkey: str, commands: list[tuple[str, ...]]) -> None:
    """Whatever is done before, a command changes and answers here what it does at Valkey."""
    ours = LuaRedis()
    with redis.Redis.from_url(valkey, decode_responses=True) as server:
        try:
            for words in commands:
                assert ours.evaluate(CALL, *words) == server.eval(CALL, 0, *words), words
        finally:
            server.flushall()


CALL = "return redis.call(unpack(ARGV))"
NUMBERS = "redis.call('SET', 's1', ARGV[1] * 1) return {redis.call('GET', 's1'), ARGV[1] * 1, tostring(ARGV[1] * 1)}"


@given(number=st.one_of(st.integers(-(2**52), 2**52), st.integers(-(10**9), 10**9).map(lambda each: each / 64)))
def test_numbers_are_written_as_a_real_server_writes_them(valkey: str, number: float) -> None:
    """A script's number arrives in Redis, and at the caller, with the same digits."""
    with redis.Redis.from_url(valkey, decode_responses=True) as server:
        theirs: Any = server.eval(NUMBERS, 0, repr(number))
        server.flushall()
    assert LuaRedis().evaluate(NUMBERS, repr(number)) == theirs
