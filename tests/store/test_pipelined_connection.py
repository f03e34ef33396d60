from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
import pytest

from app.errors import Unavailable
from app.model.secrets import Secret
from app.store import pipelined_connection
from app.store.store import Store
from tests.waiting import until


async def test_what_is_asked_at_once_leaves_as_one_and_each_gets_its_own_answer(store: Store) -> None:
    """A hundred questions of one turn are one read for Redis, and no answer is another's."""
    await store.requests.command("PING")
    before = await reads(store)
    answers = await asyncio.gather(*(store.requests.command("ECHO", number) for number in range(100)))
    assert answers == [str(number) for number in range(100)]
    assert await reads(store) - before < 20


async def test_no_question_has_no_answers(store: Store) -> None:
    """Nothing is asked and nobody waits, at the first question's place or behind one."""
    assert await store.requests.pipeline([]) == []
    assert await asyncio.gather(
        store.requests.command("ECHO", "a"), store.requests.pipeline([]), store.requests.command("ECHO", "b")
    ) == [
        "a",
        [],
        "b",
    ]


async def test_who_gives_up_waiting_leaves_the_others_their_answers(store: Store) -> None:
    """The answer to a question that was cancelled is dropped, and the next answer is the next question's."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(store.requests.command("ECHO", number)) for number in range(20)]
        await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
    assert [task.result() for task in asked[1::2]] == [str(number) for number in range(1, 20, 2)]
    assert await store.requests.command("ECHO", "after") == "after"


async def test_a_lost_connection_sends_nothing_twice_and_is_opened_anew(store: Store) -> None:
    """What was under way may have been done or not, but never twice; what is asked later is answered."""
    sent = 0

    async def count() -> int:
        nonlocal sent
        sent += 1
        return int(await store.requests.command("INCR", "count"))

    for _ in range(5):
        own = await store.requests.command("CLIENT", "ID")
        answers = await asyncio.gather(
            *(count() for _ in range(10)),
            store.requests.command("CLIENT", "KILL", "ID", own, "SKIPME", "no"),
            *(count() for _ in range(10)),
            return_exceptions=True,
        )
        assert all(isinstance(answer, int | str | Unavailable) for answer in answers)
        assert any(isinstance(answer, Unavailable) for answer in answers)
        await until(lambda: answered(store), "an answer")
    assert 50 <= int(await store.requests.command("GET", "count")) < sent


async def test_a_redis_that_hangs_is_given_up_and_tried_again(
    store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer overdue is ``Unavailable``, in time; once Redis goes on, a new connection is answered."""
    monkeypatch.setattr(pipelined_connection, "ANSWER_WITHIN_S", 0.1)
    monkeypatch.setattr(pipelined_connection, "CHECK_EVERY_S", 0.02)
    await store.requests.command("CLIENT", "PAUSE", 400, "ALL")
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as caught:
        await store.requests.command("ECHO", "late")
    assert asyncio.get_running_loop().time() - began < 0.3
    assert "no answer in" in (caught.value.cause or "")
    await until(lambda: answered(store), "an answer")


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    """A stray answer is not kept for the next question, which goes out on a new connection."""
    async with standing_in(
        lambda words, connection: b":%d\r\n" % connection * (2 if words == [b"TWICE"] else 1)
    ) as url:
        store = Store(Secret(url))
        assert await store.requests.command("TWICE") == 1
        await until(lambda: answered(store), "a new connection")
        assert await store.requests.command("WHICH") == 2
        await store.close()


async def test_closing_fails_what_is_under_way(store: Store) -> None:
    """Nobody waits for ever on a store that was closed."""
    waiting = asyncio.create_task(store.requests.command("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(Unavailable):
        await waiting


async def reads(store: Store) -> int:
    """Return how often Redis has read from a connection."""
    stats: str = await store.requests.command("INFO", "stats")
    return int(stats.partition("total_reads_processed:")[2].split()[0])


async def answered(store: Store) -> bool:
    """Tell whether Redis answers."""
    try:
        return bool(await store.requests.command("PING"))
    except Unavailable:
        return False


@asynccontextmanager
async def standing_in(answer: Callable[[list[bytes], int], bytes]) -> AsyncIterator[str]:
    """Serve a Redis that answers what it is told to, by command and number of the connection; yields its URL."""
    connections = itertools.count(1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, parser = next(connections), hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while words := parser.gets():
                writer.write(answer(words, number))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
