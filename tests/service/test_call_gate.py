from __future__ import annotations

import asyncio
from typing import cast

from app.cloud.client import CloudClient
from app.cloud.quota import CloudClosed
from app.service.call_gate import ASK_AGAIN_S, CallGate
from tests.virtual_time import run_virtual, virtual_loop


class FakeCloud:
    """Knows whether a call would be refused at once."""

    is_closed = False

    def open(self) -> None:
        """Let calls go on."""
        self.is_closed = False

    def refusal(self, _action: str, **_given: object) -> CloudClosed | None:
        """Return the refusal of a call."""
        return CloudClosed(60.0) if self.is_closed else None


def gate_of(cloud: FakeCloud) -> CallGate:
    """Return a gate for the calls through ``cloud``."""
    return CallGate(cast("CloudClient", cloud), "RevokeToken", within_s=5.0)


async def waited_s(gate: CallGate) -> float:
    """Pass the gate; return how many seconds that took."""
    began_at = virtual_loop().time()
    await gate.wait()
    return virtual_loop().time() - began_at


def test_while_calls_are_refused_none_begins() -> None:
    """They begin again within a second."""

    async def closed_for_a_minute() -> float:
        cloud = FakeCloud()
        cloud.is_closed = True
        virtual_loop().call_later(60, cloud.open)
        return await waited_s(gate_of(cloud))

    assert 60 <= run_virtual(closed_for_a_minute()) <= 60 + ASK_AGAIN_S


def test_after_a_refusal_one_call_a_second_begins_until_one_is_answered() -> None:
    """The quota knows of a refusal only when the caller asks; without any, calls begin at once."""

    async def refused() -> list[float]:
        gate = gate_of(FakeCloud())
        waits_s = [await waited_s(gate)]
        gate.note_refused()
        waits_s += [await waited_s(gate), await waited_s(gate)]
        virtual_loop().call_later(0.1, gate.note_answered)
        waits_s += [await waited_s(gate), await waited_s(gate)]
        return [round(each, 3) for each in waits_s]

    assert run_virtual(refused()) == [0, ASK_AGAIN_S, ASK_AGAIN_S, 0.1, 0]


def test_a_caller_that_is_cancelled_leaves_the_gate_to_the_next() -> None:
    """Nothing is held."""

    async def cancelled() -> float:
        cloud = FakeCloud()
        cloud.is_closed = True
        gate = gate_of(cloud)
        first = asyncio.create_task(gate.wait())
        await asyncio.sleep(0.5)
        first.cancel()
        cloud.open()
        return await waited_s(gate)

    assert run_virtual(cancelled()) == 0
