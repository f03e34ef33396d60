"""Reading packets ends at a deadline, and when it is stopped from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.sandbox.packet_stream import PacketStream, ReadingStopped


@pytest.fixture
async def stream() -> AsyncIterator[tuple[PacketStream, asyncio.StreamWriter]]:
    """A stream, and the peer's end of it."""
    accepted: asyncio.Future[PacketStream] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda r, w: accepted.set_result(PacketStream(r, w)), "127.0.0.1", 0)
    _, peer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        served = await accepted
    yield served, peer
    peer.close()
    await peer.wait_closed()
    await served.close()
    server.close()
    await server.wait_closed()


async def test_a_waiting_reader_is_stopped(stream: tuple[PacketStream, asyncio.StreamWriter]) -> None:
    """Stopping ends a read that waits, at once."""
    reading = asyncio.create_task(stream[0].read_packet(10))
    await asyncio.sleep(0)
    stream[0].stop_reading()
    with pytest.raises(ReadingStopped):
        await reading


async def test_what_came_too_late_does_not_count(stream: tuple[PacketStream, asyncio.StreamWriter]) -> None:
    """After the stop no received packet is returned: another connection may use the session by then."""
    stream[1].write(b"\xc0\x00" * 2)
    assert (await stream[0].read_packet(10)).first == 0xC0
    stream[0].stop_reading()
    for _ in range(2):
        with pytest.raises(ReadingStopped):
            await stream[0].read_packet(10)


async def test_a_deadline(stream: tuple[PacketStream, asyncio.StreamWriter]) -> None:
    """The deadline is for a whole packet: half a one does not extend it."""
    stream[1].write(b"\xc0")
    with pytest.raises(TimeoutError):
        await stream[0].read_packet(0.05)
