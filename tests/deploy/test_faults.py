"""The deployment under faults: what devices see, and that the page's commands work.

All tests share one site, because starting it is slow. They try the fault that loses an open request. The other faults
are in ``python -m tests.deploy.faults``, which .ci/run runs after the tests.
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
"""How many devices a busy machine can serve."""
FAULT: Final = "kill -9 of an instance"
PAGE: Final = (DEPLOY / "README.md").read_text()


@dataclass(frozen=True)
class InHand:
    """The results of two requests whose instances were killed while they handled them."""

    over_http1: Answer
    over_http2: dict[str, Any]
    sent: int
    """Requests that haproxy sent to instances meanwhile."""
    sent_again: int


@dataclass(frozen=True)
class Seen:
    """All results of the site."""

    row: Row
    in_hand: InHand
    http_version: str
    ready: dict[str, Any]
    token: dict[str, Any]


@pytest.fixture(scope="module")
def seen(need_program: Callable[[str], str]) -> Seen:
    """Run the page's commands, then kill instances with open requests, then cause a fault under load."""
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
    """Kill the instances that handle two requests, both sent over connections that were used before."""
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
    """Run the page's curl command for ``path``, with the site's address."""
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
    """Each response is right or a proper 503, revoked tokens stay revoked, and full service returns by itself."""
    assert seen.row.complaints == ()
    assert seen.row.wrong == 0
    assert seen.row.right + seen.row.refused == seen.row.sent


def test_a_request_in_hand_of_a_killed_instance_is_answered_503(seen: Seen) -> None:
    """A client gets JSON that says to retry, over HTTP/2 and over a kept-alive connection."""
    answer = seen.in_hand.over_http1
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert int(answer.headers["X-Timestamp"]) > 0
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-ID"])
    assert answer.body["error"] == seen.in_hand.over_http2["error"] == "temporarily_unavailable"


def test_a_request_that_was_sent_is_never_sent_again(seen: Seen) -> None:
    """Haproxy sends each POST to one instance only, because it may have taken effect."""
    assert seen.in_hand.sent_again == 0
    assert seen.in_hand.sent == 3  # one of them is the GET that opened the connection over HTTP/2


def test_the_pages_commands_work(seen: Seen) -> None:
    """The page's commands get readiness and a token through haproxy, over TLS with the generated CA."""
    assert seen.ready["status"] == "ready"
    assert seen.ready["checks"]["redis"]["detail"].startswith("durability always")
    assert seen.token["scope"] == "pub:plant/d1/up/#"
    assert seen.http_version == "2"


def test_the_page_shows_the_table() -> None:
    """The page's table has the header and the faults that the command prints, and no wrong responses."""
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    head, *rows = shown.splitlines()
    assert head == table([])
    wrong = slice(head.index("503") + 3, head.index("wrong") + 5)
    assert [(row[:30].rstrip(), row[wrong].strip()) for row in rows] == [(name, "0") for name in FAULTS]


def test_the_page_names_every_file() -> None:
    """Its first table names each file of its folder, and no other."""
    first = PAGE[: PAGE.index("\n## ")]
    named = {
        name for row in re.findall(r"^\| (\[?`.*?) \|", first, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    }
    beside = {path.name for path in DEPLOY.iterdir() if path.is_file()}
    assert named == beside - {"README.md", "benchmarks.svg", "storm.svg"}
