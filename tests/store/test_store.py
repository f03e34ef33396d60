from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.errors import Misconfigured, Unavailable
from app.loop_share import LoopShare
from app.model.secrets import Secret
from app.store.pipelined_connection import Command
from app.store.redis_keys import Shard
from app.store.script import Script
from app.store.store import COMMANDS_AT_ONCE, Store
from tests.waiting import connect_all

READ = Script("read_token", may_oom=True)


async def test_scripts_survive_a_redis_that_forgot_them(store: Store) -> None:
    """After a restart Redis knows no script: it is loaded again and run once."""
    keys = {"token": Shard(1).token("x")}
    nothing = [None] * 8
    assert await store.requests.run_script(READ, keys) == nothing
    await store.requests.command("SCRIPT", "FLUSH")
    assert await store.requests.run_script(READ, keys) == nothing
    await store.requests.command("SCRIPT", "FLUSH")
    assert await store.requests.pipeline(
        [("ECHO", "before"), store.requests.script_command(READ, keys), ("ECHO", "after")]
    ) == [
        "before",
        nothing,
        "after",
    ]


async def test_a_refusal_among_several_is_told_and_shifts_no_answer(store: Store) -> None:
    """What Redis refuses is ``Unavailable``, and the next answer still belongs to the next question."""
    with pytest.raises(Unavailable) as caught:
        await store.requests.pipeline([("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "b")])
    assert "NO-SUCH-COMMAND" in (caught.value.cause or "")
    assert await store.requests.command("ECHO", "c") == "c"


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
    await store.learn_time()
    seconds, microseconds = map(int, await store.requests.command("TIME"))
    assert abs(store.clock.now_ms() - (seconds * 1000 + microseconds // 1000)) < 100


async def test_durability_is_told_as_it_is_set(store: Store) -> None:
    """``always`` is promised only where Redis is set to it."""
    assert await store.durability() == "always"
    await store.requests.command("CONFIG", "SET", "appendfsync", "everysec")
    try:
        assert await store.durability() == "everysec"
        assert (await store.ping()).detail.startswith("durability everysec")
    finally:
        await store.requests.command("CONFIG", "SET", "appendfsync", "always")


async def test_no_purpose_waits_for_another(store: Store) -> None:
    """While the answer on one connection is outstanding, those on the others come."""
    clients = {"requests": store.requests, "permits": store.permits, "background": store.background}
    clients |= {"searches": store.searches, "polling": store.polling}
    for name, busy in clients.items():
        waiting = asyncio.create_task(busy.command("BLPOP", name, 0))
        for other in clients.values():
            if other is not busy:
                assert await other.command("ECHO", name) == name
        assert not waiting.done()
        unblocking = store.requests if busy is not store.requests else store.permits
        await unblocking.command("LPUSH", name, "done")
        assert await waiting == [name, "done"]


async def test_searches_go_in_bounded_round_trips(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked for at once, Redis gets a hundred commands at a time, and each has its own answer."""
    ask, sizes = store.searches.connection.ask, list[int]()

    async def counting(commands: Sequence[Command]) -> list[Any]:
        sizes.append(len(commands))
        return await ask(commands)

    monkeypatch.setattr(store.searches.connection, "ask", counting)
    asked = [("ECHO", number) for number in range(250)]
    assert await store.searches.pipeline(asked) == [str(number) for number in range(250)]
    assert sizes == [COMMANDS_AT_ONCE, COMMANDS_AT_ONCE, 50]


async def test_what_searches_read_counts_as_their_share(redis_url: str) -> None:
    """The answer's reading uses the share of operators, and that of token requests does not."""
    counted: list[Callable[..., Any]] = []

    class Counting(LoopShare):
        async def count(self, work: Any) -> Any:
            counted.append(work)
            return await super().count(work)

    store = Store(Secret(redis_url), share=Counting(0.2, burst_s=0))
    await connect_all(store)
    assert {work.__name__ for work in counted} == {"_write", "_read", "_check_overdue"}
    await store.close()


async def test_a_connection_is_opened_when_it_is_first_used(redis_url: str) -> None:
    """The command line, which asks for no permits, opens no connection for them."""
    store = Store(Secret(redis_url))
    for connections, client in enumerate((store.requests, store.background), 1):
        addresses = await client.command("CLIENT", "LIST")
        assert addresses.count("addr=[") // 2 == connections
    await store.close()
