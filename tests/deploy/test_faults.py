"""The deployment under faults: what devices see, and that the page's commands work.

One site serves all tests here, for starting it takes longest; the fault tried is the one that loses a request in hand.
The others are in the rehearsal that .ci/run runs beside the tests: ``python -m tests.deploy.faults``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.callers import Answer
from tests.deploy.faults import FAULTS, Rehearsal, Row, rehearsing, table
from tests.deploy.site import DEPLOY, Site

FEW: Final = 8
"""Devices that a machine can serve which is busy with other things."""
FAULT: Final = "kill -9 of an instance"
PAGE: Final = (DEPLOY / "README.md").read_text()


@dataclass(frozen=True)
class InHand:
    """What came of two requests whose instances were killed with them in hand."""

    over_http1: Answer
    over_http2: dict[str, Any]
    sent: int
    """Requests that haproxy sent to an instance meanwhile."""
    sent_again: int


@dataclass(frozen=True)
class Seen:
    """All that the site has shown."""

    row: Row
    in_hand: InHand
    http_version: str
    ready: dict[str, Any]
    token: dict[str, Any]


@pytest.fixture(scope="module")
def seen(need_program: Callable[[str], str]) -> Seen:
    """What the page says, then requests in hand of instances that are killed, then a fault under load."""
    for name in ("curl", "openssl"):
        need_program(name)
    return asyncio.run(_see(need_program("haproxy")))


async def _see(haproxy: str) -> Seen:
    async with rehearsing(haproxy, devices=FEW) as (site, rehearsal):
        secret = await site.secret_of("GID_plant@@@d1")
        return Seen(
            ready=json.loads(await _pasted(site, "readyz")),
            token=json.loads(await _pasted(site, "oauth/token", SECRET=secret)),
            http_version=await _curl(site, "-o", os.devnull, "-w", "%{http_version}", f"{site.url}/healthz"),
            in_hand=await _kill_with_requests_in_hand(site, rehearsal),
            row=await rehearsal.row(FAULT),
        )


async def _kill_with_requests_in_hand(site: Site, rehearsal: Rehearsal) -> InHand:
    """Kill the instances that hold two requests, both of them sent over connections that had served one before."""
    kept, other = rehearsal.devices[:2]
    await kept.introspect("x")
    await site.cloud.fault("ApplyToken", "hold", times=None)
    before = await site.balance()
    asked = asyncio.create_task(kept.token())
    form = ["-d", "grant_type=client_credentials", "-u", f"{other.client_id}:{other.key}", f"{site.url}/oauth/token"]
    over_http2 = asyncio.create_task(
        _curl(site, "-o", os.devnull, f"{site.url}/healthz", "--next", *_trusting(site), *form)
    )
    await site.cloud.until_held(4)  # R and W for each
    for name, row in (await site.balance()).items():
        if int(row["scur"]):
            os.killpg(site.pid(name), signal.SIGKILL)
    answer, text = await asked, await over_http2
    after = await site.balance()
    await site.cloud.clear()
    await site.until_in_full_service()

    def grown(*columns: str) -> int:
        return sum(int(after[name][column]) - int(before[name][column]) for name in after for column in columns)

    return InHand(answer, json.loads(text), sent=grown("stot"), sent_again=grown("wretr", "wredis"))


async def _pasted(site: Site, path: str, **environment: str) -> str:
    """Run the page's curl command for ``path`` as it stands, but for the place of the site."""
    blocks: list[str] = re.findall(r"```sh\n(curl .*?)```", PAGE, re.DOTALL)
    command = next(block for block in blocks if path in block)
    command = command.replace("https://localhost:8443", site.url).replace("deploy/private", str(site.private))
    return await _output("sh", "-c", command, **environment)


async def _curl(site: Site, *words: str) -> str:
    return await _output("curl", *_trusting(site), *words)


def _trusting(site: Site) -> list[str]:
    return ["-s", "--http2", "--cacert", str(site.private / "ca.pem")]


async def _output(*command: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, error.decode()
    return out.decode()


def test_a_death_behind_the_balancer_is_never_answered_wrongly(seen: Seen) -> None:
    """Each answer is right or an honest 503, revoked tokens stay gone, and full service is soon back without a hand."""
    assert seen.row.complaints == ()
    assert seen.row.wrong == 0
    assert seen.row.right + seen.row.refused == seen.row.sent


def test_a_request_in_hand_of_a_killed_instance_is_answered_503(seen: Seen) -> None:
    """It is told as JSON to ask again, over HTTP/2 and over a connection that was kept alike."""
    answer = seen.in_hand.over_http1
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert int(answer.headers["X-Timestamp"]) > 0
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-ID"])
    assert answer.body["error"] == seen.in_hand.over_http2["error"] == "temporarily_unavailable"


def test_a_request_that_was_sent_is_never_sent_again(seen: Seen) -> None:
    """Haproxy sent each POST to one instance alone: what was sent may have counted."""
    assert seen.in_hand.sent_again == 0
    assert seen.in_hand.sent == 3  # one of them is the GET that opened the connection over HTTP/2


def test_the_pages_commands_work(seen: Seen) -> None:
    """What the page pastes gets readiness and a token through haproxy, over TLS checked against what it draws."""
    assert seen.ready["status"] == "ready"
    assert seen.ready["checks"]["redis"]["detail"] == "durability always"
    assert seen.token["scope"] == "pub:plant/d1/up/#"
    assert seen.http_version == "2"


def test_the_page_shows_the_table() -> None:
    """The page's table has the head and the faults of the one that the command prints, and nothing in it is wrong."""
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    head, *rows = shown.splitlines()
    assert head == table([])
    wrong = slice(head.index("503") + 3, head.index("wrong") + 5)
    assert [(row[:30].rstrip(), row[wrong].strip()) for row in rows] == [(name, "0") for name in FAULTS]


def test_the_page_names_every_file() -> None:
    """Its first table names each file that lies beside it, and no other."""
    first = PAGE[: PAGE.index("\n## ")]
    named = {
        name for row in re.findall(r"^\| (\[?`.*?) \|", first, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    }
    beside = {path.name for path in DEPLOY.iterdir() if path.is_file()}
    assert named == beside - {"README.md", "benchmarks.svg"}
