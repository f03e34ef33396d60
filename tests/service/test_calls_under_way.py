"""The client on the quota that all instances share, a real Valkey and a real server: what leaves, and when."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from app.cloud import permit_connector, signed_calls
from app.cloud.client import AppliedTokens, CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import CloudError
from app.cloud.permit_connector import CloudConnection
from app.model.grants import TokenType
from app.model.topics import parse_filter
from app.service.pacing import Pacing
from app.service.permit_queue import PermitQueue
from app.store.quota import VALID_S, PermitGrant, PermitQuestion, QuotaSettings, SharedQuota
from app.store.store import Store
from app.tasks import end
from tests.cloud.conftest import ACCESS_KEY_SECRET, REQUEST_ID, TOKEN, Cloud, answer, hang, soon
from tests.waiting import until

LIMIT = 40
JITTER_S = 0.03
QPS = {"ApplyToken": LIMIT, "QueryToken": LIMIT, "RevokeToken": 1.0}
LIMITS = QuotaSettings(QPS, egress_qps=300, egress_group="all", jitter_s=JITTER_S)
APPLIED = answer({"RequestId": REQUEST_ID, "Token": TOKEN.reveal()})
VALID = answer({"RequestId": REQUEST_ID, "TokenStatus": True})
PAIR = ((TokenType.R, (parse_filter("a"),)), (TokenType.W, (parse_filter("b"),)))

MakeClient = Callable[..., Awaitable["Opened"]]


class Opened:
    """A client, and what its calls wait for."""

    def __init__(self, client: CloudClient, pacing: Pacing) -> None:
        self.client = client
        self.pacing = pacing

    def places(self, action: str) -> int:
        """Return how many calls have a place."""
        return self.queue(action)._places

    def queue(self, action: str) -> PermitQueue:
        """Return the queue for an action."""
        return self.pacing._pacer(action).queue

    async def until_waiting(self, action: str, count: int) -> None:
        """Wait until so many permits are waited for."""

        async def waiting() -> bool:
            return self.queue(action).waiting == count

        await until(waiting, f"{count} callers waiting")


@pytest.fixture
async def opened(store: Store, cloud: Cloud) -> AsyncIterator[MakeClient]:
    """A function that opens a client, as one more instance."""
    async with AsyncExitStack() as stack:

        async def make(
            quota: SharedQuota | None = None, *, attempt_timeout_s: float = 3.0, places_for_s: float = 3.0
        ) -> Opened:
            pacing = Pacing(quota or SharedQuota(store, limits=LIMITS), attempt_timeout_s=places_for_s)
            stack.push_async_callback(pacing.close)
            client = CloudClient(
                endpoint=cloud.url,
                region="cn-hangzhou",
                instance_id="post-cn-test",
                credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
                quota=pacing,
                now_ms=lambda: int(time.time() * 1000),
                attempt_timeout_s=attempt_timeout_s,
            )
            return Opened(await stack.enter_async_context(client.connect()), pacing)

        yield make


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When calls were written to their connections (loop time, in seconds)."""
    times: list[float] = []
    write = CloudConnection.write

    def writing(connection: CloudConnection, form: bytes) -> None:
        write(connection, form)
        times.append(asyncio.get_running_loop().time())

    monkeypatch.setattr(CloudConnection, "write", writing)
    return times


def most_within(times: Sequence[float], seconds: float) -> int:
    """Return how many of the times lie in one window at most."""
    window: deque[float] = deque()
    most = 0
    for each in sorted(times):
        window.append(each)
        while window[0] <= each - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


async def test_a_slow_cloud_gets_its_limit_in_every_second_and_no_more(
    opened: MakeClient, cloud: Cloud, written: list[float]
) -> None:
    """Many callers, and no call is answered for long: all that may be under way leave at the pace, the others wait."""
    one = await opened()
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await VALID(request)

    cloud.answers = [slow]
    callers = [asyncio.create_task(one.client.query_token(TOKEN, deadline=soon(60))) for _ in range(150)]

    async def full() -> bool:
        return len(written) >= 110

    await until(full, "all places taken")
    places = one.queue("QueryToken")._limits.places
    assert 110 <= places <= 120  # the pace for the time-out of 3 s
    assert len(written) <= places
    release.set()
    assert await asyncio.gather(*callers) == [True] * 150
    assert most_within(written, 1 + JITTER_S) <= LIMIT


async def test_hanging_calls_of_one_action_hold_up_no_other(opened: MakeClient, cloud: Cloud) -> None:
    """All its places are taken by calls that are not answered; another action has its own."""
    one = await opened(places_for_s=0.2)
    cloud.answers = [hang]
    stuck = [asyncio.create_task(one.client.query_token(TOKEN, deadline=soon(60))) for _ in range(30)]

    async def full() -> bool:
        return one.places("QueryToken") == 8 and len(cloud.calls) >= 8

    await until(full, "all places taken")
    cloud.answers = [APPLIED]
    applied = await one.client.apply_tokens(PAIR, an_hour_ahead, deadline=soon(5))
    assert len(applied.tokens) == 2
    await end(stuck)
    assert (one.places("QueryToken"), one.places("ApplyToken")) == (0, 0)


async def test_calls_that_hang_free_their_places_in_time(opened: MakeClient, cloud: Cloud) -> None:
    """The time-out begins when a call leaves, so each caller gets its turn, and learns that no answer came."""
    one = await opened(attempt_timeout_s=0.2, places_for_s=0.2)
    cloud.answers = [hang]
    results = await asyncio.gather(
        *(one.client.query_token(TOKEN, deadline=soon(20)) for _ in range(20)), return_exceptions=True
    )
    assert {getattr(each, "code", "") for each in results} == {"Timeout"}
    assert len(cloud.calls) == 40  # a lost answer is asked for once more


def an_hour_ahead() -> int:
    """Return an expiry, in Unix ms."""
    return int(time.time() * 1000) + 3_600_000


async def test_a_stall_between_permit_and_write_sends_nothing(
    opened: MakeClient, cloud: Cloud, written: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit is late then: it is discarded, and the call is sent with the next, with an expiry of its own."""
    one = await opened()
    cloud.answers = [APPLIED]
    instants = iter(range(1_000, 10_000))
    given: list[int] = []
    void_at: list[float] = []
    write = permit_connector.write_together

    def stalling() -> int:
        given.append(an_hour_ahead() + next(instants))
        if len(given) == 1:
            time.sleep(0.06)
        return given[-1]

    def writing(*arguments: Any, **options: Any) -> bool:
        void_at.append(options["void_at"])
        return write(*arguments, **options)

    monkeypatch.setattr(signed_calls, "write_together", writing)
    applied = await one.client.apply_tokens(PAIR, stalling, deadline=soon(5))
    assert len(given) == 2
    assert applied.expires_at_ms == given[-1]
    assert {call["ExpireTime"] for call in cloud.calls} == {str(given[-1])}
    assert len(written) == len(cloud.calls) == 2
    assert max(written) < void_at[-1]
    assert len(cloud.peers) == 2  # the connections were not lost by that


class CountedQuota(SharedQuota):
    """The shared quota, and how many permits it has given so far."""

    given = 0

    async def take_permits(self, action: str, question: PermitQuestion) -> PermitGrant:
        """Take, and count."""
        grant = await super().take_permits(action, question)
        self.given += grant.permits
        return grant


async def test_no_permit_waits_for_a_connection(
    store: Store, opened: MakeClient, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to connect, each call takes one permit, and has it when it leaves."""
    quota = CountedQuota(store, limits=LIMITS)
    one = await opened(quota)
    cloud.answers = [VALID]
    pool = one.client._calls._connector._pool
    create = pool._create_connection

    async def slow(*arguments: Any) -> Any:
        await asyncio.sleep(3 * VALID_S)
        return await create(*arguments)

    monkeypatch.setattr(pool, "_create_connection", slow)
    await asyncio.gather(*(one.client.query_token(TOKEN, deadline=soon(20)) for _ in range(4)))
    assert quota.given == len(cloud.calls) == 4


class SlowRedis(SharedQuota):
    """The shared quota of an instance that has 30 ms to its Redis."""

    async def take_permits(self, action: str, question: PermitQuestion) -> PermitGrant:
        """Take, later."""
        await asyncio.sleep(0.015)
        grant = await super().take_permits(action, question)
        await asyncio.sleep(0.015)
        return grant


async def test_permits_of_a_slow_redis_can_be_used(store: Store, opened: MakeClient, cloud: Cloud) -> None:
    """They are valid for longer than it takes, after the first ones at the latest."""
    one = await opened(SlowRedis(store, limits=LIMITS))
    cloud.answers = [VALID]
    for _ in range(10):
        assert await one.client.query_token(TOKEN, deadline=soon(20))
    assert VALID_S < one.queue("QueryToken")._validity.valid_s <= 0.2


async def test_a_caller_that_is_cancelled_leaves_nothing(opened: MakeClient, cloud: Cloud) -> None:
    """Whatever it waits for: its place, its permit or its answer."""
    one = await opened()
    cloud.answers = [hang]
    answered = asyncio.create_task(one.client.revoke_token(TOKEN, deadline=soon(60)))  # takes the permit of a second
    await cloud.called.wait()
    others = [asyncio.create_task(one.client.revoke_token(TOKEN, deadline=soon(60))) for _ in range(8)]
    await one.until_waiting("RevokeToken", 8)
    queue = one.queue("RevokeToken")

    async def connected() -> bool:
        return queue.has_ready

    await until(connected, "a caller that waits for its permit")
    assert one.places("RevokeToken") == 1 + queue._limits.without_permit
    await end([answered, *others])
    assert (queue.waiting, one.places("RevokeToken")) == (0, 0)
    assert not one.client._calls._connector._pool._acquired
    cloud.answers = [answer({"RequestId": REQUEST_ID})]
    await one.client.revoke_token(TOKEN, deadline=soon(60))


async def test_a_pair_of_which_one_cannot_connect_is_not_sent(opened: MakeClient, cloud: Cloud) -> None:
    """Both halves have failed, certainly; its places and the other connection are free again."""
    one = await opened()
    cloud.answers = [APPLIED]
    assert not (await applied_by(one)).errors
    pool: Any = one.client._calls._connector._pool
    create, kept = pool._create_connection, next(iter(pool._conns.values()))

    async def refuse(*_: object) -> object:
        raise aiohttp.ClientConnectionError("refused")

    pool._create_connection = refuse
    kept.pop()[0].close()
    applied = await applied_by(one)
    assert [error.code for error in applied.errors] == ["CannotConnect", "CannotConnect"]
    assert not any(error.uncertain for error in applied.errors)
    assert (len(cloud.calls), one.places("ApplyToken"), len(pool._acquired)) == (2, 0, 0)
    pool._create_connection = create
    assert not (await applied_by(one)).errors


async def applied_by(one: Opened) -> AppliedTokens:
    """Apply for both tokens of a grant."""
    return await one.client.apply_tokens(PAIR, an_hour_ahead, deadline=soon(5))


async def test_a_pair_is_applied_for_however_low_the_limit(store: Store, opened: MakeClient, cloud: Cloud) -> None:
    """At one call a second, both go together when two may."""
    one = await opened(SharedQuota(store, limits=QuotaSettings({"ApplyToken": 1.0}, 300, "all")))
    cloud.answers = [APPLIED]
    for _ in range(2):
        applied = await one.client.apply_tokens(PAIR, an_hour_ahead, deadline=soon(20))
        assert len(applied.tokens) == 2


async def test_a_connection_that_is_closed_while_it_waits_for_a_permit_is_replaced(
    opened: MakeClient, cloud: Cloud
) -> None:
    """The caller keeps its turn, and the permit is used at once on the new one."""
    one = await opened()
    cloud.answers = [answer({"RequestId": REQUEST_ID})]
    await one.client.revoke_token(TOKEN, deadline=soon(5))
    waiting = asyncio.create_task(one.client.revoke_token(TOKEN, deadline=soon(20)))
    await one.until_waiting("RevokeToken", 1)
    pool = one.client._calls._connector._pool
    queue = one.queue("RevokeToken")

    async def connected() -> bool:
        return queue.has_ready

    await until(connected, "a caller that waits for its permit")
    [protocol] = pool._acquired
    assert protocol.transport is not None
    protocol.transport.abort()

    async def replaced() -> bool:
        return bool(pool._acquired) and protocol not in pool._acquired

    await until(replaced, "another connection")
    assert queue.waiting == 1
    await waiting
    assert len(cloud.calls) == len(cloud.peers) == 2


async def test_a_connection_that_is_closed_before_its_caller_asks_for_a_permit_is_replaced(
    opened: MakeClient, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permit is taken for it."""
    one = await opened()
    cloud.answers = [VALID]
    await one.client.query_token(TOKEN, deadline=soon(5))
    provider = one.client._calls._credentials
    pool = one.client._calls._connector._pool
    get, write, written = provider.get, permit_connector.write_together, list[bool]()
    aborted: list[Any] = []

    async def get_late(**options: Any) -> Credentials:
        if not aborted:
            [protocol] = aborted[:] = pool._acquired
            assert protocol.transport is not None
            protocol.transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await get(**options)

    def write_noted(*arguments: Any, **options: Any) -> bool:
        written.append(write(*arguments, **options))
        return written[-1]

    monkeypatch.setattr(provider, "get", get_late)
    monkeypatch.setattr(signed_calls, "write_together", write_noted)
    assert await one.client.query_token(TOKEN, deadline=soon(5))
    assert written == [True]


async def test_what_was_waited_for_in_vain_is_an_error_and_no_call(opened: MakeClient, cloud: Cloud) -> None:
    """Where the wait for permits would take too long nothing is sent, and the error says when to come back."""
    one = await opened()
    cloud.answers = [answer({"RequestId": REQUEST_ID})]
    await one.client.revoke_token(TOKEN, deadline=soon(5))
    with pytest.raises(CloudError, match="QuotaExhausted") as refusal:
        await one.client.revoke_token(TOKEN, deadline=soon(0.3))
    assert refusal.value.retry_after_s
    assert len(cloud.calls) == 1
