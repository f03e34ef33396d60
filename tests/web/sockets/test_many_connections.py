"""More connections than an instance takes: who gives way, who is refused, and who always gets in."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from app.web import connections
from tests.waiting import until
from tests.web.sockets.clients import FORM, GET, HOLD, TOKEN, WITHIN_S, Start, check_refused


async def test_connections_that_wait_give_way(start: Start) -> None:
    """1,100 idle connections: the one that has waited longest is closed for each new one, which is served."""
    instance = await start(total=4)
    clients = [await instance.connect() for _ in range(4)]
    await instance.until_open(4)
    for left in (3, 2, 1):
        served = await instance.connect(TOKEN)
        assert (await served.answer()).status == 401
        assert await clients[3 - left].until_closed() == b""
        assert all(client.is_open for client in clients[-left:])


async def test_a_client_that_gives_way_is_answered(start: Start) -> None:
    """One that has sent part of its headers learns that it may come again."""
    instance = await start(total=1)
    slow = await instance.connect(b"GET / HTTP/1.1\r\n")
    await instance.until_begun(1)
    assert (await (await instance.connect(GET)).answer()).status == 200
    answer = await slow.answer()
    check_refused(answer, 503, "temporarily_unavailable")
    assert 1 <= int(answer.headers["Retry-After"]) <= 10


async def test_a_body_that_drips_gives_way(start: Start) -> None:
    """Slow bodies could fill an instance, as slow headers could: such a connection gives way, too."""
    instance = await start(total=2)
    clients = [await instance.connect(FORM + b"Content-Length: 60000\r\n\r\na") for _ in range(2)]
    await instance.until_begun(2)
    assert (await (await instance.connect(TOKEN)).answer()).status == 401
    await clients[0].until_closed()


async def test_operators_get_in_while_devices_fill_an_instance(start: Start) -> None:
    """All connections wait for answers: health checks and the console are served, all else is asked to come again."""
    instance = await start(total=4)
    waiting = await instance.hold(4)
    for path in (b"/healthz", b"/readyz", b"/admin/sign-in", b"/%61dmin/sign-in"):
        client = await instance.connect(GET.replace(b"/healthz", path))
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (200, "close"), path
        await client.until_closed()
    for sent in (TOKEN, GET.replace(b"/healthz", b"/openapi.json"), GET.replace(b"/healthz", b"/administer")):
        answer = await (await instance.connect(sent)).answer()
        check_refused(answer, 503, "temporarily_unavailable")
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
    assert all(client.is_open for client in waiting)
    instance.release.set()
    assert {(await client.answer()).status for client in waiting} == {200}
    assert (await (await instance.connect(TOKEN)).answer()).status == 401


async def test_nothing_holds_the_reserve(start: Start) -> None:
    """Idle connections and slow headers in the reserve: the one that has waited longest gives way to a health check."""
    instance = await start(total=2, reserve=2)
    await instance.hold(2)
    for sent in (b"", b"GET /adm", b"", b"GET /adm"):
        slow = [await instance.connect(sent) for _ in range(3)]
        await slow[0].until_closed()
        assert (await (await instance.connect(GET)).answer()).status == 200


async def test_connections_beyond_the_reserve_are_closed(start: Start) -> None:
    """As many requests for the console wait as the reserve has places: the next connection is closed at once."""
    instance = await start(total=1, reserve=1, headers_s=1)
    with capture_logs() as logs:
        await instance.hold(1)
        await instance.hold(1, HOLD.replace(b"/held", b"/admin/held"))
        assert await (await instance.connect(GET)).until_closed() == b""
        assert len(instance.table) == 2

        async def has_logged() -> bool:
            return any(each["event"] == "connections_limited" for each in logs)

        await until(has_logged, "an entry in the log", within_s=WITHIN_S)
    [entry] = [each for each in logs if each["event"] == "connections_limited"]
    assert (entry["setting"], entry["most"], entry["in_reserve"], entry["dropped"]) == ("MAX_CONNECTIONS", 1, 1, 1)
    assert "MAX_CONNECTIONS" in entry["cure"]


@pytest.fixture
def _each_loopback_address_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit 127.0.0.2 and so on, which are not limited outside of tests; 127.0.0.1 is not limited."""
    monkeypatch.setattr(
        connections, "source_of", lambda address, _unlimited: None if address == "127.0.0.1" else address
    )


@pytest.mark.usefixtures("_each_loopback_address_is_a_source")
async def test_one_source_does_not_keep_others_out(start: Start) -> None:
    """One address opens connection after connection: its own give way, and nobody else's."""
    instance = await start(per_source=3)
    other = await instance.connect(host="127.0.0.3")
    proxy = [await instance.connect() for _ in range(5)]
    own = [await instance.connect(host="127.0.0.2") for _ in range(6)]
    await instance.until_open(9)
    assert [client.is_open for client in (other, *proxy, *own[3:])] == [True] * 9
    for client in own[:3]:
        assert await client.until_closed() == b""


@pytest.mark.usefixtures("_each_loopback_address_is_a_source")
async def test_a_source_whose_requests_all_wait_is_refused(start: Start) -> None:
    """One address has more requests under way than it may: further ones get 429, and others are served."""
    instance = await start(per_source=2)
    await instance.hold(2, host="127.0.0.2")
    answer = await (await instance.connect(TOKEN, host="127.0.0.2")).answer()
    check_refused(answer, 429, "temporarily_unavailable")
    assert 1 <= int(answer.headers["Retry-After"]) <= 10
    for host in ("127.0.0.1", "127.0.0.3"):
        assert (await (await instance.connect(TOKEN, host=host)).answer()).status == 401
