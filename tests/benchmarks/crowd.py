"""A process that requests new tokens at a constant rate, whether or not it gets responses.

A job: ``{ports, devices: FILE, rate, seconds, first_life_s}``. Requests go to the instances at ``ports`` in turn. Every
request has a lifetime that its device did not request before, so each needs a new token. The result: ``{sent, tokens,
refused, lost, wrong: [TEXT …], retry_after_s: [least, most], late_ms}``: how many got a token, a 503 with a
``Retry-After``, and no response; ``late_ms`` is the longest delay of this process behind its schedule.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import encode_basic_auth

from tests.benchmarks.worker import Job, serve

TICK_S: Final = 0.005
PATIENCE_S: Final = 15.0
"""How long to wait for responses after the last request: an instance answers within 10 s."""

_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)


@dataclass
class Tally:
    """The counted results."""

    sent: int = 0
    tokens: int = 0
    refused: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    retry_after_s: list[int] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many requests have ended."""
        return self.tokens + self.refused + self.lost + len(self.wrong)

    def judge(self, head: bytes, body: bytes) -> None:
        """Count one response."""
        retry_after = _RETRY_AFTER.search(head)
        if head.startswith(b"HTTP/1.1 200 ") and b'"access_token"' in body:
            self.tokens += 1
        elif head.startswith(b"HTTP/1.1 503 ") and retry_after:
            self.refused += 1
            self.retry_after_s.append(int(retry_after[1]))
        else:
            status, _, _ = head.partition(b"\r\n")
            self.wrong.append(f"{status.decode()} {body.decode()}")


class Connection(asyncio.Protocol):
    """A kept-alive connection with at most one open request."""

    def __init__(self, tally: Tally, idle: list[Connection]) -> None:
        self._tally = tally
        self._idle = idle
        self._received = b""
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    def send(self, request: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Check a response once it is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if separator and length and len(body) >= int(length[1]):
            self._tally.judge(head, body)
            self._received, self._busy = b"", False
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count an open request as lost."""
        if self._busy:
            self._tally.lost += 1
        elif self in self._idle:
            self._idle.remove(self)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


async def run(job: Job) -> dict[str, Any]:
    """Run one job."""
    tally = Tally()
    idle: dict[int, list[Connection]] = {port: [] for port in job["ports"]}
    ports = itertools.cycle(job["ports"])
    requests = new_requests(Path(job["devices"]), job["first_life_s"])
    loop = asyncio.get_running_loop()
    began, late_s = loop.time(), 0.0
    async with asyncio.TaskGroup() as opening:
        while (passed_s := loop.time() - began) < job["seconds"]:
            late_s = max(late_s, passed_s - tally.sent / job["rate"])
            while tally.sent < passed_s * job["rate"]:
                tally.sent += 1
                port, request = next(ports), next(requests)
                if idle[port]:
                    idle[port].pop().send(request)
                else:
                    opening.create_task(open_and_send(tally, port, idle[port], request))
            await asyncio.sleep(TICK_S)
    until = loop.time() + PATIENCE_S
    while tally.answered < tally.sent and loop.time() < until:  # noqa: ASYNC110 (there are thousands to wait for)
        await asyncio.sleep(TICK_S)
    tally.lost += tally.sent - tally.answered
    for each in itertools.chain.from_iterable(idle.values()):
        each.close()
    result = {name: getattr(tally, name) for name in ("sent", "tokens", "refused", "lost", "wrong")}
    waits = [min(tally.retry_after_s, default=0), max(tally.retry_after_s, default=0)]
    return {**result, "retry_after_s": waits, "late_ms": late_s * 1000}


async def open_and_send(tally: Tally, port: int, idle: list[Connection], request: bytes) -> None:
    """Send over a new connection."""
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(tally, idle), "127.0.0.1", port
        )
    except OSError:
        tally.lost += 1
    else:
        connection.send(request)


def new_requests(devices: Path, first_life_s: int) -> Iterator[bytes]:
    """Yield requests endlessly, one device after another; each round requests another lifetime."""
    known = json.loads(devices.read_text(encoding="utf-8"))
    for life_s in itertools.count(first_life_s):
        for device in known:
            body = f"grant_type=client_credentials&expires_in={life_s}"
            yield (
                "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                f"Authorization: {encode_basic_auth(device['client_id'], device['secret'])}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()


if __name__ == "__main__":
    serve(run)
