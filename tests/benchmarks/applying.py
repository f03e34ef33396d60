"""A process that calls ApplyToken by our client or by the official async SDK, and measures its own processor time.

``python -m tests.benchmarks.applying ours|sdk``. A job: ``{url, ca, count, concurrency}``; the result: ``{requests,
seconds, p50_ms, p99_ms, processor_us: {"server": for each call}}``, as of the load.

Both run on uvloop against the same server. Our client takes permits of its quota, as in the server, but the quota is
high enough that it never waits. The SDK is used as its documentation shows, with one client for all calls; it opens a
connection for each call, and for TLS reads the file of root certificates each time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from tests.benchmarks.worker import Job, serve

Apply = Callable[[], Awaitable[object]]

LIMIT_S: Final = 120
RESOURCES: Final = ("plant/all", "plant/d1/down/#")


@asynccontextmanager
async def ours(job: Job) -> AsyncIterator[Apply]:
    """Yield an ApplyToken of our client. It trusts SSL_CERT_FILE and takes permits from REDIS_URL."""
    from app.cloud.client import CloudClient  # noqa: PLC0415 - each process loads only its own client
    from app.cloud.credentials import Credentials, LastingCredentials  # noqa: PLC0415
    from app.model.grants import TokenType  # noqa: PLC0415
    from app.model.secrets import AccessKeySecret, Secret  # noqa: PLC0415
    from app.model.topics import parse_filter  # noqa: PLC0415
    from app.service.pacing import Pacing  # noqa: PLC0415
    from app.store.quota import QuotaSettings, SharedQuota  # noqa: PLC0415
    from app.store.store import Store  # noqa: PLC0415

    credentials = LastingCredentials(Credentials("bench-key", AccessKeySecret("bench-secret")))
    resources = [parse_filter(text) for text in RESOURCES]
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        store = Store(Secret(os.environ["REDIS_URL"]))
        stack.push_async_callback(store.close)
        limits = QuotaSettings({"ApplyToken": 1e6}, egress_qps=1e6, egress_group="all")
        quota = Pacing(SharedQuota(store, limits=limits))
        stack.push_async_callback(quota.close)
        client = await stack.enter_async_context(
            CloudClient(
                endpoint=job["url"],
                region="cn-hangzhou",
                instance_id="mqtt-bench",
                credentials=credentials,
                quota=quota,
                now_ms=lambda: int(time.time() * 1000),
            ).connect()
        )

        async def apply() -> object:
            applied = await client.apply_tokens([(TokenType.R, resources)], expiry_ms, deadline=loop.time() + 10)
            for error in applied.errors:
                raise error
            return applied.tokens[TokenType.R]

        yield apply


@asynccontextmanager
async def sdk(job: Job) -> AsyncIterator[Apply]:
    """Yield an ApplyToken of the official SDK."""
    from alibabacloud_onsmqtt20200420.client import Client  # noqa: PLC0415
    from alibabacloud_onsmqtt20200420.models import ApplyTokenRequest  # noqa: PLC0415
    from alibabacloud_tea_openapi.models import Config  # noqa: PLC0415
    from alibabacloud_tea_util.models import RuntimeOptions  # noqa: PLC0415

    url = urlsplit(job["url"])
    config = Config(access_key_id="bench-key", access_key_secret="bench-secret", endpoint=url.netloc)
    config.protocol = url.scheme
    client = Client(config)
    runtime = RuntimeOptions(ca=job["ca"])

    async def apply() -> object:
        request = ApplyTokenRequest(
            actions="R", expire_time=expiry_ms(), instance_id="mqtt-bench", resources=",".join(RESOURCES)
        )
        answer = await client.apply_token_with_options_async(request, runtime)
        return answer.body.token

    yield apply


def expiry_ms() -> int:
    """Return the instant an hour from now, in Unix ms."""
    return int(time.time() * 1000) + 3_600_000


async def run(job: Job) -> dict[str, Any]:
    """Run one job. Raises the client's errors: every call must succeed."""
    way = {"ours": ours, "sdk": sdk}[sys.argv[1]]
    async with asyncio.timeout(LIMIT_S), way(job) as apply:
        await asyncio.gather(*(apply() for _ in range(job["concurrency"])))  # opens the connections that are reused
        turns = iter(range(job["count"]))
        used_s, began = time.process_time(), time.perf_counter()
        latencies = await asyncio.gather(*(drive(apply, turns) for _ in range(job["concurrency"])))
        seconds, used_s = time.perf_counter() - began, time.process_time() - used_s
    ordered = sorted(latency for each in latencies for latency in each)
    return {
        "requests": len(ordered),
        "seconds": seconds,
        "p50_ms": statistics.median(ordered) * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "processor_us": {"server": used_s / len(ordered) * 1_000_000},
    }


async def drive(apply: Apply, turns: Any) -> list[float]:
    """Apply for tokens until the turns run out; returns the duration of each in seconds."""
    latencies = []
    for _ in turns:
        began = time.perf_counter()
        if not await apply():
            raise RuntimeError("no token")
        latencies.append(time.perf_counter() - began)
    return latencies


if __name__ == "__main__":
    serve(run)
