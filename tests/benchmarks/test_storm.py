from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web

from app.tasks import end
from tests.benchmarks.storm import table
from tests.benchmarks.storm.cases import CASES, HALF, Case
from tests.benchmarks.storm.cloud import Sample, Timeline
from tests.benchmarks.storm.connections import Balancer, NoReplyError
from tests.benchmarks.storm.crowd import Crowd
from tests.benchmarks.storm.measure import breaker_changes
from tests.benchmarks.storm.outcome import BreakerChange, Outcome
from tests.benchmarks.storm.requests import FleetDevice
from tests.benchmarks.storm.tally import Tally, merge_tallies
from tests.processes import free_ports
from tests.waiting import until

ISSUER = "http://127.0.0.1:8080"
DEVICE = FleetDevice("GID_plant@@@d1", b"a secret of 32 characters or more", ISSUER)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves every path with a handler; returns the port."""
    runners = []

    async def start(handler: Handler) -> int:
        application = web.Application()
        application.router.add_post("/{path:.*}", handler)
        runner = web.AppRunner(application)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


def granted(device: FleetDevice = DEVICE) -> web.Response:
    """A token response."""
    return web.json_response({"access_token": "R|1|W|2", "mqtt": {"client_id": device.client_id}})


def refused(retry_after_s: int = 0) -> web.Response:
    """A refusal until then."""
    return web.json_response(
        {"error": "temporarily_unavailable"}, status=503, headers={"Retry-After": str(retry_after_s)}
    )


class _Chances(random.Random):
    """Chances that are all the same: 0.5 is a device that obeys, returns and does not revoke."""

    def random(self) -> float:
        return 0.5


async def ask(serve: Serve, *responses: web.Response, killed: bool = False) -> Tally:
    """Let a new device arrive at a server that gives these responses; return what was counted."""
    left = iter(responses)

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return next(left)

    port = await serve(handle)
    balancer = Balancer([port])
    crowd = Crowd(balancer, _Chances(), killed_port=port if killed else None)
    await crowd.arrive(DEVICE, time.monotonic())
    balancer.close()
    return crowd.tally


async def test_a_new_device_asks_until_it_is_served(serve: Serve) -> None:
    """A refused device returns when it was promised; refusals, promises and their error are counted."""
    tally = await ask(serve, refused(), refused(), granted())
    assert (tally.sent, tally.refused, tally.tokens, tally.refusals, tally.wrong) == (3, 2, 1, [2], 0)
    assert tally.promises == 2
    assert tally.waits_s == [0, 0]
    first_s, second_s = sorted(tally.promise_errors_s, reverse=True)
    assert 5 > first_s > second_s > 0


async def test_a_promise_is_kept_only_without_another_refusal(serve: Serve) -> None:
    """Of two promises the first was not kept, because the device was refused again."""
    tally = await ask(serve, refused(), refused(), granted())
    assert (tally.promises, tally.kept) == (2, 1)


@pytest.mark.parametrize(
    "response",
    [
        web.json_response({"error": "invalid_client"}, status=401),
        web.json_response({}, status=503),
        web.json_response({"access_token": "R|1", "mqtt": {"client_id": "GID_plant@@@d2"}}),
    ],
    ids=["a refusal of another kind", "503 without Retry-After", "another device's token"],
)
async def test_other_responses_are_wrong(serve: Serve, response: web.Response, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new device gets its own token or a 503 with ``Retry-After``; anything else is counted and shown."""
    monkeypatch.setattr("tests.benchmarks.storm.crowd.TRY_AGAIN_S", 0)
    tally = await ask(serve, response, granted())
    assert (tally.wrong, tally.tokens, tally.refusals) == (1, 1, [0])
    assert tally.samples[0].startswith(f"{DEVICE.client_id}: {response.status}")


async def test_a_refused_live_token_is_counted(serve: Serve) -> None:
    """A device with a live token counts every response but a token as a refusal, and shows it."""
    asked = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.set()
        return refused(8)

    balancer = Balancer([await serve(handle)])
    crowd = Crowd(balancer, _Chances())
    living = asyncio.create_task(crowd.stay_live(DEVICE))

    async def counted() -> bool:
        return bool(crowd.tally.live_refused)

    await until(counted, "the refusal")
    await end([living])
    balancer.close()
    assert (crowd.tally.live_sent, crowd.tally.live_tokens, crowd.tally.refused) == (1, 0, 0)
    assert "503" in crowd.tally.samples[0]


@pytest.mark.parametrize("killed", [True, False])
async def test_requests_of_a_killed_instance_are_counted_apart(serve: Serve, *, killed: bool) -> None:
    """A lost request is wrong, unless its instance was killed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    port = await serve(handle)
    crowd = Crowd(Balancer([port]), _Chances(), killed_port=port if killed else None)
    assert await crowd._ask(DEVICE, DEVICE.token_request()) is None
    assert (crowd.tally.killed, crowd.tally.wrong) == ((1, 0) if killed else (0, 1))


async def test_what_waits_at_the_end_is_counted(serve: Serve) -> None:
    """A device that was not served counts, and its promise is late by the time since it returned."""
    crowd = Crowd(Balancer([1]), _Chances())
    crowd.waiting["GID_plant@@@d1"] = [time.monotonic() - 3]
    crowd.note_unserved()
    assert crowd.tally.unserved == 1
    assert 3 <= crowd.tally.promise_errors_s[0] < 10


async def test_an_instance_that_refuses_connections_is_left_out(serve: Serve) -> None:
    """Requests go to the other instances; only if all refuse there is no reply."""

    async def handle(_: web.Request) -> web.StreamResponse:
        return granted()

    [closed] = free_ports(1)
    balancer = Balancer([closed, await serve(handle)])
    replies = [await balancer.exchange(DEVICE.token_request()) for _ in range(4)]
    balancer.close()
    assert [each.status for each in replies] == [200] * 4
    with pytest.raises(NoReplyError):
        await Balancer([closed]).exchange(DEVICE.token_request())


async def test_requests_go_to_the_instances_in_turn(serve: Serve) -> None:
    """Each of three instances gets every third request, over the same connection each time."""
    peers: dict[str, list[Any]] = {"a": [], "b": [], "c": []}

    def noting(name: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            peers[name].append(request.transport.get_extra_info("peername"))
            return granted()

        return handle

    balancer = Balancer([await serve(noting(name)) for name in peers])
    for _ in range(6):
        await balancer.exchange(DEVICE.token_request())
    balancer.close()
    assert [len(each) for each in peers.values()] == [2, 2, 2]
    assert all(first == second for first, second in peers.values())


def test_an_assertion_is_right() -> None:
    """A request carries an assertion that a server accepts, another one each time."""
    requests = [DEVICE.token_request().decode().partition("client_assertion=")[2].partition("&")[0] for _ in range(2)]
    claims = [jwt.decode(each, DEVICE.secret, ["HS256"], audience=ISSUER) for each in requests]
    assert {each["iss"] for each in claims} == {each["sub"] for each in claims} == {DEVICE.client_id}
    assert claims[0]["jti"] != claims[1]["jti"]
    assert time.time() < claims[0]["exp"] <= time.time() + 300


def timeline(*paces: float) -> Timeline:
    """A timeline from 1000 s on with a pace for each second, ten samples a second."""
    samples, count = [Sample(1000.0, 0, 0, 0)], 0.0
    for tenth in range(len(paces) * 10):
        count += paces[tenth // 10] / 10
        samples.append(Sample(1000 + (tenth + 1) / 10, round(count), round(count), round(count)))
    return Timeline(samples)


def outcome(case: Case, seen: Timeline, **changed: Any) -> Outcome:
    """A row without a fault of the servers."""
    tally = Tally(tokens=10, served_at_s=[1010.0] * 10, live_sent=60, live_tokens=60, live_ms=[5.0] * 60)
    right: dict[str, Any] = {
        "key": "calm",
        "case": case,
        "instances": 3,
        "tally": tally,
        "timeline": seen,
        "start_s": 1000.0,
        "fault_end_s": 0.0,
        "changes": [],
        "calls": {},
        "injected": {},
        "limits": {
            "calls": [{"action": "ApplyToken", "peak": 100, "refused": 0}],
            "addresses": [{"peak": 120}],
            "paused_too_long": False,
            "longest_pause_ms": 1.0,
        },
        "processor_shares": {"devices": 0.1},
        "late_ms": 1.0,
    }
    return Outcome(**(right | changed))


STORM = CASES["4000"]


def opened(at_s: float) -> BreakerChange:
    """The breaker of all instances opened."""
    return BreakerChange(at_s, is_open=True, scope="group")


def closed(at_s: float, scope: str = "group") -> BreakerChange:
    """A breaker closed."""
    return BreakerChange(at_s, is_open=False, scope=scope)


def test_a_row_in_which_all_is_well() -> None:
    """Nothing is broken, and the share is what was used while there was demand."""
    row = outcome(STORM, timeline(*[0], *[93] * 12))
    assert list(row.broken_promises()) == []
    assert row.share_of_quota == pytest.approx(0.93, abs=0.01)
    assert json.loads(json.dumps(row.as_json()))["row"] == "calm"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tally": Tally(live_refused=2)}, "2 requests for a live token were refused"),
        ({"tally": Tally(wrong=3)}, "3 wrong responses"),
        ({"timeline": replace(timeline(93, 93), blocked_until_s=1060.0)}, "the cloud blocked the address"),
        ({"changes": [opened(1001)]}, "the breaker is still open"),
    ],
)
def test_a_broken_promise_is_named(changed: dict[str, Any], says: str) -> None:
    """Each promise that a row breaks is listed."""
    assert list(outcome(STORM, timeline(*[93] * 12), **changed).broken_promises()) == [says]


def test_an_overflow_breaks_a_promise() -> None:
    """A call beyond a limit breaks a promise; with half of the quota only more than 40 a minute do."""
    refused = {"calls": [{"action": "ApplyToken", "peak": 108, "refused": 7}], "addresses": [{"peak": 120}]}
    limits = {**outcome(STORM, timeline(1)).limits, **refused}
    assert list(outcome(STORM, timeline(*[93] * 12), limits=limits).broken_promises()) == ["7 calls exceeded a limit"]
    half = replace(STORM, quotas=HALF)
    assert list(outcome(half, timeline(*[46] * 12), limits=limits).broken_promises()) == [
        "47 Overflow a minute, not 40 at most"
    ]
    assert list(outcome(half, timeline(*[40] * 12)).broken_promises()) == [
        "80.0% of the real quota were used, not 85% at least"
    ]


def test_an_injected_block_breaks_no_promise() -> None:
    """In the row with a blocked address the block ends with the fault; a later end is that of another block."""
    seen = replace(timeline(*[93] * 40), blocked_until_s=1036.2)
    assert not outcome(CASES["blocked"], seen, fault_end_s=1036.0).is_blocked
    later = replace(seen, blocked_until_s=1090.0)
    assert outcome(CASES["blocked"], later, fault_end_s=1036.0).is_blocked


def test_the_time_from_the_closing_of_the_breaker_is_measured() -> None:
    """It ends with the first second that had 95 % of the pace. Of several closings the last one counts."""
    changes = [
        opened(1001.0),
        closed(1002.0),
        opened(1003.0),
        closed(1005.0),
        closed(1005.2),
        closed(1009.0, "instance"),
    ]
    ramp = outcome(STORM, timeline(93, 93, 93, 0, 0, 10, 20, 40, 80, 93, 93), changes=changes)
    assert ramp.closed_at_s == 1005.0
    assert ramp.recovery_s == pytest.approx(5.0, abs=0.3)
    assert list(ramp.broken_promises()) == []
    slow = outcome(STORM, timeline(*[93] * 5, *[50] * 7), changes=changes)
    assert list(slow.broken_promises()) == [
        "never from the closing of the breaker to 95 % of the pace, not 6 s at most"
    ]


def test_the_breaker_is_read_from_the_logs(tmp_path: Path) -> None:
    """What instances logged since the start of the row is found, whatever else they logged."""
    log = tmp_path / "instance.log"
    lines = [
        "WARNING asyncio a text that is not JSON",
        json.dumps({"event": "breaker_opened", "scope": "group", "timestamp": "2020-01-01T00:00:00Z"}),
        json.dumps({"event": "breaker_closed", "scope": "group", "timestamp": "2120-01-01T00:00:00Z"}),
    ]
    log.write_text("\n".join(lines), encoding="utf-8")
    [change] = breaker_changes([log], time.monotonic())
    assert (change.is_open, change.scope) == (False, "group")


def test_tallies_of_several_processes_are_added() -> None:
    """Counts and lists of the devices that arrive later are added to those of the others."""
    first, second = Tally(sent=2, served_at_s=[1.0]), Tally(sent=3, served_at_s=[2.0])
    first.others["/oauth/revoke 200"] += 1
    second.others["/oauth/revoke 200"] += 2
    merged = merge_tallies([json.loads(json.dumps(each.as_json())) for each in (first, second)])
    assert (merged.sent, merged.served_at_s, merged.others["/oauth/revoke 200"]) == (5, [1.0, 2.0], 3)


def test_the_tables_replace_those_of_a_document(tmp_path: Path) -> None:
    """The tables stand between two marks of the document; what is around them stays."""
    document = tmp_path / "BENCHMARKS.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    rows = [outcome(STORM, timeline(*[93] * 12)), outcome(STORM, timeline(*[93] * 12), key="4000", instances=1)]
    table.write_between_marks(document, table.tables(rows, "a machine"))
    written = document.read_text(encoding="utf-8")
    assert written.startswith(f"before\n{table.BEGIN}\na machine\n\nThree instances:\n\n|")
    assert written.endswith(f"\n{table.END}\nafter\n")
    assert "old" not in written
    assert "One instance alone:" in written


def test_a_document_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    """The error says which marks to add."""
    document = tmp_path / "BENCHMARKS.md"
    document.write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match="has no <!--"):
        table.write_between_marks(document, "tables")
    assert document.read_text(encoding="utf-8") == "text"
