from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.errors import Misconfigured, Unavailable
from app.model.secrets import Secret
from app.store.connection import Store, retry_until
from app.store.redis_keys import SHARDS, Shard
from app.store.script import Script

READ = Script("read_token", may_oom=True)


async def test_scripts_survive_a_redis_that_forgot_them(store: Store) -> None:
    """After a restart Redis knows no script: it is loaded again and run once."""
    keys = {"token": Shard(1).token("x")}
    nothing = [None] * 8
    assert await store.run(READ, keys) == nothing
    await store.command("SCRIPT", "FLUSH")
    assert await store.run(READ, keys) == nothing
    await store.command("SCRIPT", "FLUSH")
    assert await store.each([("ECHO", "before"), store.call(READ, keys), ("ECHO", "after")]) == [
        "before",
        nothing,
        "after",
    ]


async def test_a_refusal_among_several_is_told_and_shifts_no_answer(store: Store) -> None:
    """What Redis refuses is ``Unavailable``, and the next answer still belongs to the next question."""
    with pytest.raises(Unavailable) as caught:
        await store.each([("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "b")])
    assert "NO-SUCH-COMMAND" in (caught.value.cause or "")
    assert await store.command("ECHO", "c") == "c"


async def test_without_redis_the_refusal_says_to_ask_again(tmp_path: Path) -> None:
    """A Redis out of reach is ``Unavailable`` with a Retry-After; its address is told to the log alone."""
    store = Store(Secret(f"unix://{tmp_path}/nobody.sock"))
    with pytest.raises(Unavailable) as caught:
        await store.ping()
    assert caught.value.retry_after_s == 1
    assert str(tmp_path) not in caught.value.description
    await store.close()


async def test_a_wrong_url_is_named_without_being_shown() -> None:
    """REDIS_URL may hold a password, so the complaint does not repeat it."""
    with pytest.raises(Misconfigured, match="REDIS_URL") as caught:
        Store(Secret("http://:password@host"))
    assert "password" not in str(caught.value)


async def test_the_clock_is_redis_own(store: Store) -> None:
    """The time told is Redis's, whatever this machine's clock says."""
    store.clock._offset_ms += 10**7
    await store.clock.learn(store.command)
    seconds, microseconds = map(int, await store.command("TIME"))
    assert abs(store.clock.now_ms() - (seconds * 1000 + microseconds // 1000)) < 100


async def test_durability_is_told_as_it_is_set(store: Store) -> None:
    """``always`` is promised only where Redis is set to it."""
    assert await store.durability() == "always"
    await store.command("CONFIG", "SET", "appendfsync", "everysec")
    try:
        assert await store.durability() == "everysec"
        assert "everysec" in await store.ping()
    finally:
        await store.command("CONFIG", "SET", "appendfsync", "always")


async def test_insisting_ends(store: Store) -> None:
    """A step that Redis refuses is repeated only for as long as was said."""
    tries = 0

    async def refuse() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("no")

    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await retry_until(refuse, within_s=0.1)
    assert tries > 1
    assert asyncio.get_running_loop().time() - started < 0.5


def test_a_handle_names_its_shard() -> None:
    """Every handle drawn in a shard leads back to it, and nothing else is taken for one."""
    for number in range(SHARDS):
        assert Shard.of_handle(Shard(number).draw_handle()) == Shard(number)
    for junk in ("", "64-" + "a" * 22, "1-" + "a" * 22, "01-" + "a" * 21, "01-" + "a" * 22 + "\n", "01-" + "|" * 22):
        assert Shard.of_handle(junk) is None
