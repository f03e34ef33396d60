"""deploy/haproxy.cfg against clients that would keep others out: haproxy runs with it, on TLS and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from app.web.open_files import raise_open_files
from tests.deploy.site import DEPLOY, ask_haproxy
from tests.processes import free_ports, running
from tests.waiting import until

FLOOD: Final = 4200
NEEDED_FILES: Final = 19_100
HELLO_S: Final = 5.0
TOO_LATE_S: Final = 12.0
"""On a busy machine; without the limit it takes 20 s."""

OPERATOR: Final = "127.0.0.1"
OTHER: Final = "127.0.0.9"
CLIENT_HELLO: Final = bytes.fromhex("1603010200 010001fc0303")
"""How one begins."""
HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000 04 00 00000000")
PING: Final = bytes.fromhex("000008 06 00 00000000") + b"12345678"
HEADERS_BEGIN: Final = bytes.fromhex("000001 01 00 00000001 82")
HEADERS_GO_ON: Final = bytes.fromhex("000001 09 00 00000001 84")
GET_SLOW: Final = bytes.fromhex("000014 01 05 00000001 82 87 4109") + b"localhost" + bytes.fromhex("4405") + b"/slow"


@dataclass(frozen=True)
class Balancer:
    """A running haproxy, and how to connect to it."""

    port: int
    backend: int
    certificates: Path
    socket: Path

    def tls(self, protocol: str = "http/1.1") -> ssl.SSLContext:
        """Return what a client needs to trust it."""
        context = ssl.create_default_context(cafile=self.certificates / "ca.pem")
        context.set_alpn_protocols([protocol])
        return context

    async def connect(self, source: str, protocol: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from a loopback address; by TCP alone without a ``protocol``. Raises ``ConnectionError``."""
        context = self.tls(protocol) if protocol else None
        name = "localhost" if protocol else None
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=name, local_addr=(source, 0)
        )

    async def status(self, source: str, path: str = "/x") -> int:
        """Return the status of a GET over a new connection. Raises ``ConnectionError``."""
        reader, writer = await self.connect(source, "http/1.1")
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return int((await reader.readuntil(b"\r\n")).split()[1])
        except asyncio.IncompleteReadError:
            raise ConnectionError("closed without an answer") from None
        finally:
            writer.transport.abort()

    async def queued(self) -> int:
        """Return how many requests wait for an instance."""
        rows = csv.DictReader((await ask_haproxy(self.socket, "show stat")).lstrip("# ").splitlines())
        return next(int(row["qcur"]) for row in rows if (row["pxname"], row["svname"]) == ("instances", "BACKEND"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory, need_program: Callable[[str], str]) -> Path:
    """What ``deploy/prepare`` generates."""
    need_program("openssl")
    folder = tmp_path_factory.mktemp("haproxy") / "private"
    subprocess.run([DEPLOY / "prepare", folder], check=True)
    return folder


@contextmanager
def balancing(haproxy: str, certificates: Path, config: Path = DEPLOY / "haproxy.cfg") -> Iterator[Balancer]:
    """Run haproxy with ``config``; all instances are one port of this test."""
    port, backend = free_ports(2)
    socket = certificates / f"{port}.sock"
    environment = {
        "PATH": os.environ["PATH"],
        "LISTEN": f"127.0.0.1:{port}",
        "CERTIFICATE": str(certificates / "server.pem"),
        "INNER": f"mqtt-token-server-{port}",
        "HAPROXY_SOCKET": str(socket),
        "OPERATORS": f"192.0.2.0/24 {OPERATOR}",
    } | {f"INSTANCE_{number}": f"127.0.0.1:{backend}" for number in (1, 2, 3)}
    command = [haproxy, "-db", "-f", str(config)]
    with running(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield Balancer(port, backend, certificates, socket)


@pytest.fixture(scope="module")
def balancer(certificates: Path, need_program: Callable[[str], str]) -> Iterator[Balancer]:
    """A haproxy with the file as it is, for all tests."""
    if raise_open_files() < NEEDED_FILES:
        pytest.skip(f"haproxy needs {NEEDED_FILES} open files (ulimit -Hn)")
    with balancing(need_program("haproxy"), certificates) as balancer:
        yield balancer


Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def answering(balancer: Balancer, arrived: list[str] | None = None) -> AsyncIterator[asyncio.Event]:
    """Answer what haproxy forwards, ``/slow`` only after the event is set; haproxy has noticed that this runs.

    The paths of requests are added to ``arrived``.
    """
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            if arrived is not None:
                arrived.append(path)
            if path == "/slow":
                await release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", balancer.backend, backlog=1000)
    try:

        async def serves() -> bool:
            with contextlib.suppress(ConnectionError):
                return await balancer.status(OPERATOR) == 200
            return False

        await until(serves, "service through haproxy", every_s=0.1)
        yield release
    finally:
        release.set()
        server.close()


@asynccontextmanager
async def flood(balancer: Balancer, count: int, sources: list[str]) -> AsyncIterator[list[Connected]]:
    """Open ``count`` TCP connections that send nothing; yields those that haproxy accepted."""
    accepted: list[Connected] = []

    async def from_one(source: str, number: int) -> None:
        for _ in range(number):
            with contextlib.suppress(ConnectionError):
                accepted.append(await balancer.connect(source))

    await asyncio.gather(*(from_one(source, count // len(sources)) for source in sources))
    try:
        yield accepted
    finally:
        for _, writer in accepted:
            writer.transport.abort()


def still_open(connections: list[Connected]) -> int:
    """Return how many connections haproxy has not closed."""
    return sum(not reader.at_eof() and reader.exception() is None for reader, _ in connections)


async def test_one_source_does_not_keep_others_out(balancer: Balancer) -> None:
    """4,200 idle TCP connections from one address: it keeps 200, and others are served meanwhile."""
    async with answering(balancer), flood(balancer, FLOOD, ["127.0.2.1"]) as idle:
        assert await balancer.status(OTHER) == 200

        async def are_limited() -> bool:
            return still_open(idle) <= 200

        # Before the limit for a TLS hello closes them.
        await until(are_limited, "at most 200 connections of one source", within_s=HELLO_S / 2)
        with pytest.raises(ConnectionError):
            await balancer.status("127.0.2.1")


async def test_several_sources_do_not_keep_others_out(balancer: Balancer) -> None:
    """4,200 idle TCP connections from 21 addresses, each within its limit: others are served while all are open."""
    async with answering(balancer), flood(balancer, FLOOD, [f"127.0.3.{number}" for number in range(1, 22)]) as idle:
        assert await balancer.status(OTHER) == 200
        assert still_open(idle) > FLOOD * 0.9, "they were closed before anyone else asked: the test shows nothing"


async def test_operators_get_in_whatever_devices_do(balancer: Balancer) -> None:
    """More connections than haproxy takes, from 30 addresses: others are refused, operators and monitoring are not."""
    async with answering(balancer), flood(balancer, 6000, [f"127.0.4.{number}" for number in range(1, 31)]) as idle:
        with pytest.raises(ConnectionError):
            await balancer.status(OTHER)
        for path in ("/readyz", "/admin/"):
            assert await balancer.status(OPERATOR, path) == 200
        assert still_open(idle) > FLOOD, "they were closed before anyone else asked: the test shows nothing"


async def test_a_source_that_connects_again_and_again_is_limited(balancer: Balancer) -> None:
    """An address that closes its connections at once still has only 1,000 in 10 s: each may cost a TLS handshake."""
    refused = 0
    async with answering(balancer):
        for _ in range(1100):
            try:
                _, writer = await balancer.connect("127.0.5.1")
            except ConnectionError:
                refused += 1
            else:
                writer.close()
                await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await balancer.status("127.0.5.1")
        assert await balancer.status(OTHER) == 200


async def test_slow_clients_are_cut_and_slow_instances_are_not(balancer: Balancer) -> None:
    """A client has 5 s for a TLS hello, for headers, for a body and between requests, whatever it sends meanwhile.

    A client that waits for an instance for longer is not cut. All at once, because each takes those 5 s.
    """
    loop = asyncio.get_running_loop()

    async def cut_after(protocol: str, first: bytes, drop: bytes = b"") -> float:
        reader, writer = await balancer.connect(OTHER, protocol)
        started = loop.time()
        writer.write(first)

        async def drip() -> None:
            while drop:
                await asyncio.sleep(0.5)
                writer.write(drop)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await reader.read()
        finally:
            dripping.cancel()
            writer.transport.abort()
        return loop.time() - started

    async def answered(protocol: str, sent: bytes) -> bytes:
        reader, writer = await balancer.connect(OTHER, protocol)
        writer.write(sent)
        try:
            return await reader.readuntil(b"right")
        finally:
            writer.transport.abort()

    get = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
    post = get.replace(b"GET", b"POST") + b"Content-Length: 99\r\n\r\n"
    async with answering(balancer) as release:
        waiting = [
            asyncio.create_task(answered("http/1.1", get.replace(b"/x", b"/slow") + b"\r\n")),
            asyncio.create_task(answered("h2", HTTP2 + GET_SLOW)),
        ]
        slow = {
            "no hello": cut_after("", b""),
            "half a hello": cut_after("", CLIENT_HELLO),
            "a hello that drips": cut_after("", CLIENT_HELLO, b"\0"),
            "no request": cut_after("http/1.1", b""),
            "headers that drip": cut_after("http/1.1", get, b"X-A: b\r\n"),
            "a body that drips": cut_after("http/1.1", post, b"a"),
            "no next request": cut_after("http/1.1", get + b"\r\n"),
            "nothing but HTTP/2": cut_after("h2", HTTP2),
            "HTTP/2 pings": cut_after("h2", HTTP2, PING),
            "HTTP/2 headers that drip": cut_after("h2", HTTP2 + HEADERS_BEGIN, HEADERS_GO_ON),
        }
        took = dict(zip(slow, await asyncio.gather(*slow.values()), strict=True))
        assert not any(task.done() for task in waiting)
        release.set()
        answers = await asyncio.gather(*waiting)
    assert {name: took_s for name, took_s in took.items() if not HELLO_S * 0.9 < took_s < TOO_LATE_S} == {}
    assert b" 200 " in answers[0]


async def test_the_console_does_not_wait_behind_devices(
    tmp_path: Path, certificates: Path, need_program: Callable[[str], str]
) -> None:
    """All instances have as many requests as they take, and others wait: a request for the console is the next."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    small = text.replace("maxconn 2000 ", "maxconn 1 ").replace("timeout queue 4s", "timeout queue 15s")
    assert small.count("maxconn 1 ") == small.count("timeout queue 15s") == 1
    config = tmp_path / "haproxy.cfg"
    config.write_text(small)
    arrived: list[str] = []
    with balancing(need_program("haproxy"), certificates, config) as balancer:
        async with answering(balancer, arrived) as release, asyncio.TaskGroup() as requests:

            async def until_queued(count: int) -> None:
                async def are_queued() -> bool:
                    return await balancer.queued() == count

                await until(are_queued, f"{count} requests in haproxy's queue")

            for _ in range(6):
                requests.create_task(balancer.status(OTHER, "/slow"))
            await until_queued(3)
            arrived.clear()
            requests.create_task(balancer.status(OTHER, "/admin/"))
            await until_queued(4)
            release.set()
    assert [path for path in arrived if path != "/readyz"] == ["/admin/", "/slow", "/slow", "/slow"]
