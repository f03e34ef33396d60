"""The load generator: a process that signs its requests before the measurement, and then sends them.

A job: ``{port, path, devices: FILE, count, concurrency, meters: {name: pid}}``. The result: ``{requests, seconds,
p50_ms, p99_ms, processor_us: {name: for each request}}``. Connections are kept alive, each with one open request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import jwt

from tests.benchmarks.meter import processor_s
from tests.benchmarks.worker import Job, serve
from tests.callers import ASSERTION_TYPE

LIMIT_S: Final = 120
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def run(job: Job) -> dict[str, Any]:
    """Run one job. Raises ``RuntimeError`` for any response but 200: all measured responses must be right."""
    content = json.loads(Path(job["devices"]).read_text(encoding="utf-8"))
    devices = itertools.islice(itertools.cycle(content["devices"]), job["count"])
    requests = [request(job["path"], content["issuer"], device) for device in devices]
    meters = {name: int(pid) for name, pid in job["meters"].items()}
    async with asyncio.timeout(LIMIT_S):
        streams = [await asyncio.open_connection("127.0.0.1", job["port"]) for _ in range(job["concurrency"])]
        queue = iter(requests)
        before = {name: processor_s(pid) for name, pid in meters.items()}
        began = time.perf_counter()
        latencies = await asyncio.gather(*(drive(reader, writer, queue) for reader, writer in streams))
        seconds = time.perf_counter() - began
        used_s = {name: processor_s(pid) - before[name] for name, pid in meters.items()}
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
    ordered = sorted(itertools.chain.from_iterable(latencies))
    return {
        "requests": len(ordered),
        "seconds": seconds,
        "p50_ms": statistics.median(ordered) * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "processor_us": {name: each / len(ordered) * 1_000_000 for name, each in used_s.items()},
    }


def request(path: str, issuer: str, device: dict[str, str]) -> bytes:
    """Return a complete request of a device, with a new assertion."""
    now = int(time.time())
    client_id = device["client_id"]
    claims = {"iss": client_id, "sub": client_id, "aud": issuer, "exp": now + 240, "jti": str(uuid.uuid4())}
    form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": jwt.encode(claims, device["secret"], "HS256")}
    form |= {"grant_type": "client_credentials"} if path.endswith("token") else {"token": device["access_token"]}
    body = urlencode(form)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def drive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, queue: Iterator[bytes]) -> list[float]:
    """Send the requests one after another; returns the duration of each in seconds."""
    latencies = []
    for each in queue:
        sent = time.perf_counter()
        writer.write(each)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        latencies.append(time.perf_counter() - sent)
        if not head.startswith(b"HTTP/1.1 200 ") or b'"active": false' in body:
            raise RuntimeError(f"a wrong answer: {head.decode()}{body.decode()}")
    return latencies


if __name__ == "__main__":
    serve(run)
