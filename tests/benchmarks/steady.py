"""A process that sends requests of devices at a steady rate, beside others that fail, and measures both.

A job: ``{port, issuer, devices: FILE, rate, seconds, failing: KIND or null, failing_rate}``; ``KINDS`` has the kinds.
Requests are signed before the measurement and sent at their times, whether or not earlier ones were answered. The
result: ``{p50_ms, p99_ms, wrong: [TEXT …], failing: {STATUS: count}, late_ms}``. Every device has the right key, so any
answer but 200 is wrong. ``late_ms`` is the longest delay of this process behind its schedule.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import random
import re
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import jwt
from aiohttp import encode_basic_auth
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.model.devices import Algorithm
from app.service.verification_keys import new_pair, new_secret
from tests.benchmarks.load import request
from tests.benchmarks.worker import Job, serve
from tests.callers import ASSERTION_TYPE

PATIENCE_S: Final = 12.0
"""How long to wait for answers after the last request: an instance answers within 10 s."""

ATTACKER: Final = "198.51.100.7"

_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

Device = dict[str, str]
Fail = Callable[[str, Device], bytes]
"""Makes a request that fails, for an issuer; in the name of a registered device, or of none."""


@dataclass
class Answers:
    """The answers to requests of one kind."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0

    def add(self, head: bytes, body: bytes, seconds: float) -> None:
        """Count one answer."""
        status = int(head[9:12])
        self.statuses[status] += 1
        self.latencies_s.append(seconds)
        if status != 200:
            self.wrong.append(f"{status} {body.decode()}")

    @property
    def count(self) -> int:
        """How many requests have ended."""
        return len(self.latencies_s) + self.lost

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the latencies."""
        ordered = sorted(self.latencies_s)
        return ordered[len(ordered) * percent // 100] * 1000


class KeptConnection(asyncio.Protocol):
    """A kept-alive connection with at most one request under way; it returns to ``idle`` with each answer."""

    def __init__(self, answers: Answers, idle: list[KeptConnection]) -> None:
        self._answers = answers
        self._idle = idle
        self._received = b""
        self._sent_at: float | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is not a subclass

    def send(self, request: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if separator and length and len(body) >= int(length[1]) and self._sent_at is not None:
            self._answers.add(head, body, time.perf_counter() - self._sent_at)
            self._received, self._sent_at = b"", None
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request under way as lost."""
        if self._sent_at is not None:
            self._answers.lost += 1
        elif self in self._idle:
            self._idle.remove(self)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


class Sender:
    """Sends requests of one kind at a steady rate."""

    def __init__(self, port: int, requests: list[bytes], rate: float) -> None:
        self.answers = Answers()
        self.late_s = 0.0
        self._port = port
        self._requests = requests
        self._rate = rate
        self._idle: list[KeptConnection] = []

    async def send_all(self) -> None:
        """Send each request at its time, and wait for the answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as opening:
            for due_s, each in zip(arrivals(self._rate), self._requests, strict=False):
                due = began + due_s
                await asyncio.sleep(due - loop.time())
                self.late_s = max(self.late_s, loop.time() - due)
                if self._idle:
                    self._idle.pop().send(each)
                else:
                    opening.create_task(self._open_and_send(each))
        until = loop.time() + PATIENCE_S
        while self.answers.count < len(self._requests) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.answers.lost += len(self._requests) - self.answers.count
        for connection in self._idle:
            connection.close()

    async def _open_and_send(self, each: bytes) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: KeptConnection(self.answers, self._idle), "127.0.0.1", self._port
            )
        except OSError:
            self.answers.lost += 1
        else:
            connection.send(each)


def arrivals(rate: float) -> Iterator[float]:
    """Yield the seconds at which independent requests come, so many a second; the same ones in each run."""
    pauses = random.Random(1)  # noqa: S311 (no secret)
    return itertools.accumulate(pauses.expovariate(rate) for _ in itertools.count())


async def run(job: Job) -> dict[str, Any]:
    """Run one job."""

    def sender(make: Fail, rate: float) -> Sender:
        count = int(rate * job["seconds"])
        return Sender(job["port"], [make(job["issuer"], device) for device in itertools.islice(devices, count)], rate)

    devices = itertools.cycle(json.loads(Path(job["devices"]).read_text(encoding="utf-8")))
    right = sender(lambda issuer, device: request("/oauth/token", issuer, device), job["rate"])
    failing = sender(KINDS[job["failing"]], job["failing_rate"]) if job["failing"] else Sender(job["port"], [], 1)
    await asyncio.gather(right.send_all(), failing.send_all())
    statuses = failing.answers.statuses | ({0: failing.answers.lost} if failing.answers.lost else {})
    return {
        "p50_ms": right.answers.percentile_ms(50),
        "p99_ms": right.answers.percentile_ms(99),
        "wrong": right.answers.wrong + ["no answer"] * right.answers.lost,
        "failing": {str(status): count for status, count in sorted(statuses.items())},
        "late_ms": max(right.late_s, failing.late_s) * 1000,
    }


@cache
def private_key(algorithm: Algorithm) -> Any:
    """Return a key that no device has, loaded: reading an RSA key from PEM takes longer than signing."""
    if algorithm.symmetric:
        return new_secret().reveal()
    return load_pem_private_key(new_pair(algorithm)[0].reveal().encode(), None)


def stranger(algorithm: Algorithm) -> Fail:
    """Return how unknown client IDs, another one each time, send signed assertions from one address."""
    return lambda issuer, _: signed(issuer, f"GID_plant@@@{uuid.uuid4().hex}", algorithm, address=ATTACKER)


def stranger_anywhere(algorithm: Algorithm) -> Fail:
    """Return how they do so from another address each time, as far as an instance can tell."""
    addresses = map(str, ipaddress.ip_network("10.0.0.0/8"))
    return lambda issuer, _: signed(issuer, f"GID_plant@@@{uuid.uuid4().hex}", algorithm, address=next(addresses))


def wrong_key(algorithm: Algorithm) -> Fail:
    """Return how registered client IDs send assertions that another key signed, from one address."""
    return lambda issuer, device: signed(issuer, device["client_id"], algorithm, address=ATTACKER)


def wrong_secret(_issuer: str, device: Device) -> bytes:
    """Return a request with HTTP Basic and a wrong secret."""
    basic = encode_basic_auth(device["client_id"], secrets.token_urlsafe(32))
    return post("grant_type=client_credentials", f"Authorization: {basic}\r\nX-Forwarded-For: {ATTACKER}\r\n")


def signed(issuer: str, client_id: str, algorithm: Algorithm, *, address: str) -> bytes:
    """Return a request with an assertion that a key signed which no device has."""
    now = int(time.time())
    claims = {"iss": client_id, "sub": client_id, "aud": issuer, "exp": now + 240, "jti": str(uuid.uuid4())}
    form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}
    form["client_assertion"] = jwt.encode(claims, private_key(algorithm), algorithm.value)
    return post(urlencode(form), f"X-Forwarded-For: {address}\r\n")


def post(body: str, more: str) -> bytes:
    """Return a request for a token."""
    head = "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    return f"{head}{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()


KINDS: Final[dict[str, Fail]] = {
    **{f"strangers, {each}": stranger(each) for each in Algorithm},
    "anywhere, RS256": stranger_anywhere(Algorithm.RS256),
    **{f"wrong key, {each}": wrong_key(each) for each in Algorithm},
    "wrong secret, Basic": wrong_secret,
}
"""The requests that fail, by name."""

if __name__ == "__main__":
    serve(run)
