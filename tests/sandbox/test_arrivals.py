"""When the bytes of a call arrived, however late they are read."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from app.sandbox.arrivals import _SO_TIMESTAMPNS, ArrivalListener, ArrivalTimes
from app.sandbox.call_meter import Arrival
from app.sandbox.limits import QuotaLimits
from app.sandbox.pauses import PauseMeter
from app.sandbox.server import Sandbox, SandboxConfig
from tests.sandbox.caller import FORM, Caller

PAUSE_S = 0.05
needs_kernel_times = pytest.mark.skipif(sys.platform != "linux", reason="only Linux notes when bytes arrive")


@pytest.fixture
def pauses() -> PauseMeter:
    """A meter that has measured nothing."""
    return PauseMeter()


@pytest.fixture
def arrivals(pauses: PauseMeter) -> ArrivalTimes:
    """No times yet."""
    return ArrivalTimes(pauses)


@pytest.fixture
def pair(arrivals: ArrivalTimes) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The ends of a connection: the caller's, and the one that notes arrivals."""
    with ArrivalListener(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.note_arrivals(arrivals)
        with socket.create_connection(listener.getsockname()) as caller:
            accepted, _ = listener.accept()
            with accepted:
                yield caller, accepted


@pytest.fixture
def find(arrivals: ArrivalTimes, pair: tuple[socket.socket, socket.socket]) -> Callable[[], Arrival]:
    """Return the arrival of the request that the connection has read last."""

    def find() -> Arrival:
        return arrivals.find(pair[1])

    return find


@needs_kernel_times
def test_a_pause_does_not_change_the_time(
    pair: tuple[socket.socket, socket.socket], find: Callable[[], Arrival], pauses: PauseMeter
) -> None:
    """Bytes that are read late arrived when they were sent, and the delay is noted as a pause."""
    caller, accepted = pair
    before_s = time.monotonic()
    caller.sendall(b"call")
    after_s = time.monotonic()
    time.sleep(PAUSE_S)
    assert accepted.recv(100) == b"call"
    assert before_s - 0.001 <= find().at_s <= after_s + 0.001
    assert find().within_s == 0
    assert pauses.longest_s >= PAUSE_S - (after_s - before_s) - 0.001


@needs_kernel_times
def test_another_wall_clock_is_not_a_pause(
    pair: tuple[socket.socket, socket.socket],
    find: Callable[[], Arrival],
    pauses: PauseMeter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the wall clock is changed between arrival and reading, the time of reading counts, as an uncertain one."""
    for step_s in (600, -600):
        pair[0].sendall(b"call")
        monkeypatch.setattr(time, "time", lambda step_s=step_s, now=time.time: now() + step_s)
        pair[1].recv(100)
        monkeypatch.undo()
        assert time.monotonic() - find().at_s < 1
    assert pauses.longest_s == 0


def test_a_time_of_reading_is_uncertain(
    pair: tuple[socket.socket, socket.socket], find: Callable[[], Arrival], pauses: PauseMeter
) -> None:
    """Without a time of the kernel, bytes may have arrived earlier by as much as this process paused."""
    if sys.platform == "linux":
        pair[1].setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 0)
    pauses.note_pause(0.2, time.monotonic())
    pair[0].sendall(b"call")
    before_s = time.monotonic()
    pair[1].recv(100)
    assert find().at_s >= before_s
    assert find().within_s == 0.2


def test_a_connection_without_a_time(arrivals: ArrivalTimes, pair: tuple[socket.socket, socket.socket]) -> None:
    """A request whose connection has ended, or is read by another kind of loop, arrives when it is handled."""
    before_s = time.monotonic()
    assert arrivals.find(None).at_s >= before_s
    assert arrivals.find(pair[1]).at_s >= before_s


class TestSandbox:
    """In a running sandbox, whose loop the test holds up."""

    @pytest.fixture
    def config(self, config: SandboxConfig) -> SandboxConfig:
        """A sandbox with a low limit."""
        return replace(config, limits=QuotaLimits({"QueryToken": 1}))

    @needs_kernel_times
    async def test_calls_of_a_pause_count_when_they_came(self, sandbox: Sandbox, cloud: Caller) -> None:
        """Calls that are read at once, after a pause, are admitted if they came one second apart, and else refused."""
        connections = [socket.create_connection(("127.0.0.1", sandbox.port)) for _ in range(3)]
        for connection, pause_s in zip(connections, (1.1, 0, 0), strict=True):
            body = urlencode(cloud.signed("QueryToken", Token="t"))
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            time.sleep(pause_s)  # noqa: ASYNC251 - the pause is what is tested
        shown = await cloud.control("GET", "limits")
        while sum(sum(results.values()) for results in (await cloud.control("GET", "calls")).values()) < 3:
            pass
        for connection in connections:
            connection.close()
        assert await cloud.control("GET", "calls") == {"QueryToken": {"OK": 2, "QueryTokenOverflow": 1}}
        assert shown["longest_pause_ms"] >= 1000
        assert shown["paused_too_long"]
        await cloud.control("DELETE", "calls")
        assert (await cloud.control("GET", "limits"))["longest_pause_ms"] < 1000
