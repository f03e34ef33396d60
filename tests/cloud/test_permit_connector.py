from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop

from app.cloud.errors import CloudError, ErrorKind
from app.cloud.permit_connector import PermitConnector, write_together
from tests.waiting import until

FORM = b"Action=QueryToken&Token=t"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"

Steps = Callable[["Peer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each call."""
    while await peer.receive(reader):
        writer.write(peer.answer)


@dataclass
class Peer:
    """The other end of the connections: what came, and what is done on each connection."""

    steps: Steps = answer
    answer: bytes = OK
    url: str = ""
    connections: int = 0
    received: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        self.writers.append(writer)
        with suppress(ConnectionError):
            await self.steps(self, reader, writer)
        writer.close()

    async def receive(self, reader: asyncio.StreamReader) -> bytes:
        """Receive a call, or nothing at the end."""
        received = await reader.read(65536)
        self.received += [received] * bool(received)
        return received


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A cloud of raw bytes."""
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    yield peer
    server.close()
    for writer in peer.writers:
        writer.close()


@pytest.fixture
async def connector(peer: Peer) -> AsyncIterator[PermitConnector]:
    """The connections to that cloud."""
    connector = PermitConnector(peer.url)
    async with connector.open():
        yield connector
        assert not connector._pool._acquired  # whatever happened, no connection is left over


def nothing() -> None:
    """Closed connections are of no interest."""


def soon(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


async def call(connector: PermitConnector, *, void_at: float | None = None) -> bool:
    """Make a call; False if it was not sent."""
    async with connector.connections(1, within_s=5, on_closed=nothing) as connections:
        if not write_together(connections, [FORM], void_at=soon() if void_at is None else void_at):
            return False
        raw = await connections[0].read_answer(deadline=soon())
        assert (raw.status, raw.content_type, raw.body) == (200, "application/json", b"{}")
        return True


async def test_a_call_is_one_post_with_a_form(peer: Peer, connector: PermitConnector) -> None:
    """The request has all that HTTP/1.1 asks for, in one piece, and the next call uses the same connection."""
    assert await call(connector)
    assert await call(connector)
    assert peer.connections == 1
    assert (
        peer.received
        == [
            f"POST / HTTP/1.1\r\nHost: {peer.url[7:-1]}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nUser-Agent: mqtt-token-server\r\n"
            f"Content-Length: {len(FORM)}\r\n\r\n{FORM.decode()}".encode()
        ]
        * 2
    )


async def test_with_a_late_permit_nothing_leaves(peer: Peer, connector: PermitConnector) -> None:
    """Not one byte, not even of the headers, and the connection is good for the next call."""
    assert not await call(connector, void_at=asyncio.get_running_loop().time())
    assert not await call(connector, void_at=-1)
    assert await call(connector)
    assert len(peer.received) == peer.connections == 1


async def test_of_calls_that_go_together_all_leave_or_none(peer: Peer, connector: PermitConnector) -> None:
    """Two connections, written to in one step; where one of them was closed, neither is."""
    closed = asyncio.Event()
    async with connector.connections(2, within_s=5, on_closed=closed.set) as connections:
        assert write_together(connections, [FORM, FORM], void_at=soon())
        for each in connections:
            await each.read_answer(deadline=soon())
    async with connector.connections(2, within_s=5, on_closed=closed.set) as connections:
        peer.writers[0].close()
        await closed.wait()
        assert not write_together(connections, [FORM, FORM], void_at=soon())
    assert (len(peer.received), peer.connections) == (2, 2)


async def test_a_connection_that_the_cloud_closed_meanwhile_is_replaced(peer: Peer, connector: PermitConnector) -> None:
    """It is reported while it waits; one that served before may be closed at any time, so that is not a failure."""
    await call(connector)
    closed = asyncio.Event()
    async with connector.connections(1, within_s=5, on_closed=closed.set) as connections:
        peer.writers[0].close()
        await closed.wait()
        assert not write_together(connections, [FORM], void_at=soon())
    assert await call(connector)
    assert peer.connections == 2


async def test_a_cloud_that_closes_new_connections_at_once_cannot_be_connected_to(
    peer: Peer, connector: PermitConnector
) -> None:
    """It is an error, and not a reason to open the next connection without a pause."""

    async def hang_up(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    peer.steps = hang_up
    closed = asyncio.Event()
    with pytest.raises(CloudError, match="closed the connection before anything was sent") as failure:
        async with connector.connections(1, within_s=5, on_closed=closed.set):
            await closed.wait()
    assert (failure.value.code, failure.value.uncertain) == ("CannotConnect", False)


async def test_bytes_before_the_call_are_not_its_answer(peer: Peer, connector: PermitConnector) -> None:
    """A gateway that says on its own that it closes an idle connection has answered no call."""
    await call(connector)
    async with connector.connections(1, within_s=5, on_closed=nothing) as connections:
        peer.writers[0].write(OK)
        await until_true(lambda: not connections[0].is_open)
        assert not write_together(connections, [FORM], void_at=soon())
    assert await call(connector)
    peer.writers[1].write(OK)
    pooled = next(iter(connector._pool._conns.values()))[0][0]
    await until_true(lambda: pooled.should_close)
    assert await call(connector)
    assert peer.connections == 3


async def until_true(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""

    async def holds() -> bool:
        return condition()

    await until(holds, "what was sent has come")


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_an_answer_comes_in_any_form_of_http(peer: Peer, connector: PermitConnector, sent: bytes) -> None:
    """Interim answers are passed over; a connection that the cloud wants to close is not used again."""
    peer.answer = sent
    assert await call(connector)
    assert await call(connector)
    assert peer.connections == (2 if b"close" in sent else 1)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "ConnectionLost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "ConnectionLost"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "ConnectionLost"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "ConnectionLost"),
    ],
)
async def test_what_is_not_an_answer_is_an_uncertain_error(
    peer: Peer, connector: PermitConnector, sent: bytes, code: str
) -> None:
    """The call was sent, so it may have taken effect; the connection is not used again."""

    async def break_off(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.receive(reader)
        writer.write(sent)

    peer.steps = break_off
    with pytest.raises(CloudError) as failure:
        await call(connector)
    assert (failure.value.kind, failure.value.code, failure.value.uncertain) == (ErrorKind.UNREACHABLE, code, True)
    peer.steps = answer
    assert await call(connector)
    assert peer.connections == 2


async def test_an_answer_is_waited_for_until_the_deadline(peer: Peer, connector: PermitConnector) -> None:
    """Then the call may have taken effect, and its connection is closed."""
    peer.answer = b""
    async with connector.connections(1, within_s=5, on_closed=nothing) as connections:
        assert write_together(connections, [FORM], void_at=soon())
        with pytest.raises(CloudError, match="Timeout: no answer in") as failure:
            await connections[0].read_answer(deadline=soon(0.05))
    assert failure.value.uncertain
    assert not connector._pool._conns


async def test_connecting_has_a_time_of_its_own() -> None:
    """A cloud that accepts and then says nothing to a TLS hello is given up, certainly without effect."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connector = PermitConnector(f"https://127.0.0.1:{silent.getsockname()[1]}/")
        async with connector.open():
            with pytest.raises(CloudError, match=r"CannotConnect: no connection in 0\.1 s") as failure:
                async with connector.connections(2, within_s=0.1, on_closed=nothing):
                    raise AssertionError
            assert not connector._pool._acquired
    assert not failure.value.uncertain


async def test_a_pair_of_which_one_cannot_connect_is_not_sent(peer: Peer, connector: PermitConnector) -> None:
    """The connection that could be had is kept for another call."""
    await call(connector)
    make = connector._pool._create_connection

    async def refuse(*_: object) -> object:
        raise aiohttp.ClientConnectionError("refused")

    connector._pool._create_connection = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(CloudError, match="CannotConnect: refused"):
        async with connector.connections(2, within_s=5, on_closed=nothing):
            raise AssertionError
    connector._pool._create_connection = make  # type: ignore[method-assign]
    assert await call(connector)
    assert (peer.connections, len(peer.received)) == (1, 2)


async def test_a_cancelled_call_leaves_no_connection(peer: Peer, connector: PermitConnector) -> None:
    """Whether it connects, waits for its permit or for its answer: nothing of it is left, and others go on."""
    peer.answer = b""
    reached = asyncio.Event()

    async def wait_for_permit() -> None:
        async with connector.connections(2, within_s=5, on_closed=nothing):
            reached.set()
            await asyncio.Event().wait()

    async def wait_for_answer() -> None:
        async with connector.connections(2, within_s=5, on_closed=nothing) as connections:
            assert write_together(connections, [FORM, FORM], void_at=soon())
            reached.set()
            await connections[0].read_answer(deadline=soon())

    async def cancelled_when(steps: Coroutine[Any, Any, None], condition: Callable[[], bool]) -> None:
        task = asyncio.create_task(steps)
        await until_true(condition)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not connector._pool._acquired
        reached.clear()

    await cancelled_when(wait_for_permit(), lambda: len(connector._pool._acquired) == 2)
    await cancelled_when(wait_for_permit(), reached.is_set)
    await cancelled_when(wait_for_answer(), reached.is_set)
    peer.answer = OK
    assert await call(connector)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_bytes_leave_in_the_step_in_which_they_are_written(scheme: str, run: Callable[..., float]) -> None:
    """The socket has them before the loop goes on, over TLS too: whatever holds the loop up then, they are in time."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    arrived: list[float] = []
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            connection.recv(65536)
            arrived.append(time.monotonic())
            done.set()
            connection.sendall(OK)

    async def send(port: int) -> float:
        connector = PermitConnector(f"{scheme}://localhost:{port}/")
        async with connector.open():
            connector._target = aiohttp.ClientRequest("POST", connector._url, ssl=trusting)
            async with connector.connections(1, within_s=5, on_closed=nothing) as connections:
                assert write_together(connections, [FORM], void_at=soon())
                assert done.wait(10)  # the loop is held up until the call has arrived
                await connections[0].read_answer(deadline=soon())
        return arrived[0]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        assert run(send(listener.getsockname()[1]))
        server.join()


def test_this_aiohttp_has_the_parts_that_are_used() -> None:
    """Each is undocumented: another version may lack it, and must not be taken before this passes."""
    for owner, names in {
        aiohttp.TCPConnector: ("connect",),
        aiohttp.connector.Connection: ("protocol", "transport", "release", "close"),
        aiohttp.client_proto.ResponseHandler: (
            "connection_lost",
            "is_connected",
            "read",
            "set_response_params",
            "should_close",
        ),
    }.items():
        assert not [name for name in names if not hasattr(owner, name)]
