"""Reading can be cut short from outside, whatever has arrived by then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.sandbox.wire import Wire, Woken


@pytest.fixture
async def wire() -> AsyncIterator[tuple[Wire, asyncio.StreamWriter]]:
    """A wire, and the peer's end of it."""
    accepted: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda r, w: accepted.set_result(Wire(r, w)), "127.0.0.1", 0)
    _, peer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        served = await accepted
    yield served, peer
    peer.close()
    await peer.wait_closed()
    await served.close()
    server.close()
    await server.wait_closed()


async def test_a_reader_is_woken(wire: tuple[Wire, asyncio.StreamWriter]) -> None:
    """Waking ends a reading that waits, at once."""
    reading = asyncio.create_task(wire[0].read(10))
    await asyncio.sleep(0)
    wire[0].wake()
    with pytest.raises(Woken):
        await reading


async def test_what_came_too_late_does_not_count(wire: tuple[Wire, asyncio.StreamWriter]) -> None:
    """Once woken, no packet is handed out, also one that lies ready: its session may be another connection's."""
    wire[1].write(b"\xc0\x00" * 2)
    assert (await wire[0].read(10)).first == 0xC0
    wire[0].wake()
    for _ in range(2):
        with pytest.raises(Woken):
            await wire[0].read(10)


async def test_a_deadline(wire: tuple[Wire, asyncio.StreamWriter]) -> None:
    """Half a packet counts for nothing: the deadline is for a whole one."""
    wire[1].write(b"\xc0")
    with pytest.raises(TimeoutError):
        await wire[0].read(0.05)
