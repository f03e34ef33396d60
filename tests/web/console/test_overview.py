from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from app.assembly import build
from app.errors import Unavailable
from app.model.health import HealthCheck, HealthStatus
from app.model.operators import OperatorRole
from app.model.text import _
from app.service.metrics import Metrics
from app.service.registry import Registry
from app.settings import Settings
from app.store.counters import MINUTE_MS
from app.store.quota import CallReport, SharedQuota
from app.upstream import quota_settings
from app.web.console import overview
from app.web.route import SERVICES
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import MakeCaller, OwnCloud
from tests.web.console.conftest import Seen, SignedIn

Server = TestClient[Any, Any]

PassMinutes = Callable[[int], None]


def figure(shown: Seen, name: str) -> str:
    """Return the figure under a name."""
    match = re.search(rf"<dt>{name}</dt>\s*<dd>(?:<a [^>]*>)?([^<]+)<", shown.text)
    assert match, shown.text
    return match[1]


def health_of(shown: Seen) -> str:
    """Return the part of the page that shows the health."""
    return shown.text.split('id="health"')[1].split("</section>")[0]


async def tell(*servers: Server) -> None:
    """Have instances add at once what they counted."""
    for server in servers:
        await server.app[SERVICES].metrics.add_counts()


@pytest.fixture
def pass_minutes(server: Server, other_server: Server) -> PassMinutes:
    """A function that lets minutes pass for both instances, each from the beginning of one."""
    clocks = [each.app[SERVICES].stores.redis.clock for each in (server, other_server)]

    def forward(minutes: int) -> None:
        for clock in clocks:
            clock.shift_ms += minutes * MINUTE_MS

    into_ms = clocks[0].now_ms() % MINUTE_MS
    for clock in clocks:
        clock.shift_ms += MINUTE_MS - into_ms + 1000
    return forward


async def test_the_last_hour_of_all_instances_is_shown(
    server: Server, other_server: Server, caller: Caller, signed_in: SignedIn, pass_minutes: PassMinutes
) -> None:
    """Requests at two instances, minutes apart, are counted together, drawn, and told in a table."""
    browser = await signed_in(OperatorRole.VIEWER)
    elsewhere = replace(caller, client=other_server)
    assert (await caller.token_by_basic()).status == 200
    await tell(server)
    pass_minutes(5)
    assert (await elsewhere.token_by_basic()).status == 200
    assert (await elsewhere.token_by_basic("w" * 43)).status == 401
    assert (await elsewhere.post("/oauth/token", {"grant_type": "none"})).status == 400
    await tell(other_server)
    shown = await browser.get("/admin/")
    assert shown.status == 200
    assert figure(shown, "Answered, last hour") == "2"
    assert figure(shown, "Refused, last hour") == "2"
    assert "1 new token from the cloud" in shown.text
    assert "2 answered, 2 refused" in shown.text
    assert (shown.text.count('<rect class="a"'), shown.text.count('<rect class="b"')) == (2, 1)
    rows = re.findall(r'<td class="number">(\d+)</td>', shown.text)
    assert rows == ["1", "2", "0", "1", "0", "0"]
    pass_minutes(58)
    later = await (await signed_in(OperatorRole.VIEWER, "later")).get("/admin/")
    assert (figure(later, "Answered, last hour"), figure(later, "Refused, last hour")) == ("1", "2")


async def test_what_was_counted_outlives_its_instance(
    settings: Settings, server: Server, caller: Caller, signed_in: SignedIn
) -> None:
    """An instance that stops adds what it counted last."""
    async with TestClient(TestServer(build(settings))) as stopping:
        assert (await replace(caller, client=stopping).token_by_basic()).status == 200
    assert figure(await (await signed_in()).get("/admin/"), "Answered, last hour") == "1"


async def test_a_new_set_up_says_what_to_do_first(signed_in: SignedIn) -> None:
    """With nothing there yet the page leads whoever may to registering a device, and says what each part waits for."""
    shown = await (await signed_in(OperatorRole.OPERATOR)).get("/admin/")
    assert (figure(shown, "Live tokens"), figure(shown, "Devices")) == ("0", "0")
    assert "No device is registered yet." in shown.text
    assert "Register the first device" in shown.text
    assert "No device has requested a token in the last hour." in shown.text
    assert "No device has a live token." in shown.text
    assert "not called in" in shown.text
    assert "signed in" in shown.text
    viewer = await (await signed_in(OperatorRole.VIEWER)).get("/admin/")
    assert "Register the first device" not in viewer.text
    assert "An operator or an admin can register one." in viewer.text


async def test_tokens_and_devices_are_counted_and_the_next_to_expire_can_be_revoked(
    make_caller: MakeCaller, signed_in: SignedIn
) -> None:
    """The five tokens that expire first each have a way to be revoked, for whoever may; the rest are one click away."""
    handles = []
    for number in range(6):
        caller = await make_caller(f"GID_plant@@@d{number}")
        answer = await caller.token(expires_in=str(1000 + 600 * number))
        handles.append(answer.body["handle"])
    shown = await (await signed_in(OperatorRole.OPERATOR)).get("/admin/")
    assert (figure(shown, "Live tokens"), figure(shown, "Devices")) == ("6", "6")
    soonest = re.findall(r'href="/admin/revoke\?handle=([^"]+)"', shown.text)
    assert soonest == handles[:5]
    viewer = await (await signed_in(OperatorRole.VIEWER)).get("/admin/")
    assert "/admin/revoke?" not in viewer.text
    assert handles[0] in viewer.text


async def test_a_token_is_revoked_in_two_clicks_after_signing_in(caller: Caller, signed_in: SignedIn) -> None:
    """A click on the first page leads to what will happen, the next does it, and the page counts one token less."""
    handle = (await caller.token()).body["handle"]
    browser = await signed_in(OperatorRole.OPERATOR)
    [link] = re.findall(r'href="(/admin/revoke\?handle=[^"]+)"', (await browser.get("/admin/")).text)
    asked = await browser.get(link)
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', asked.text.split("<main")[1])
    assert ("handle", handle) in fields
    assert (await browser.post("/admin/revoke", dict(fields))).status == 303
    after = await browser.get("/admin/")
    assert figure(after, "Live tokens") == "0"
    assert "token revoked" in after.text


async def test_the_last_lines_of_the_audit_are_told_in_words(caller: Caller, signed_in: SignedIn) -> None:
    """Who did what to which device is told, the newest first, with links to the device and the token."""
    answer = await caller.token()
    shown = await (await signed_in(OperatorRole.VIEWER, "ada")).get("/admin/")
    audit_log = shown.text.split('id="trail"')[1]
    assert audit_log.index("signed in") < audit_log.index("token issued") < audit_log.index("device registered")
    assert "operator:ada" in audit_log
    assert "the device itself" in audit_log
    assert f'href="/admin/tokens/{answer.body["handle"]}"' in audit_log
    assert 'href="/admin/devices/GID_plant@@@d1"' in audit_log


async def test_when_the_cloud_is_gone_the_page_says_so_and_since_when(
    server: Server, caller: Caller, cloud: OwnCloud, signed_in: SignedIn
) -> None:
    """The rest of the page stands; once a call succeeds again the warning is gone, and the last failure still told."""
    browser = await signed_in()
    await cloud.fault("ApplyToken", "drop", times=None)
    assert (await caller.token()).status == 503
    await tell(server)
    shown = await browser.get("/admin/")
    assert shown.status == 200
    assert "The cloud is unreachable." in shown.text
    assert "ApplyToken, <code>ConnectionLost</code> (no response)" in shown.text
    assert figure(shown, "Refused, last hour") == "1"
    assert "1 of them because of an outage (5xx)" in shown.text
    await cloud.clear()

    async def served() -> bool:
        return (await caller.token()).status == 200

    await until(served, "a token after the outage")
    await tell(server)
    back = await browser.get("/admin/")
    assert "The cloud is unreachable." not in back.text
    assert '<span class="pill good">reachable</span>' in back.text
    assert "<code>ConnectionLost</code>" in back.text


async def test_a_refusal_of_the_cloud_is_told_but_is_no_outage(
    server: Server, caller: Caller, cloud: OwnCloud, signed_in: SignedIn
) -> None:
    """What the cloud refuses by itself is named with its code; nobody is told that the cloud were gone."""
    await cloud.fault("ApplyToken", "error", code="PermissionCheckFailed", times=None)
    assert (await caller.token()).status == 503
    await tell(server)
    shown = await (await signed_in()).get("/admin/")
    assert "The cloud is unreachable." not in shown.text
    assert "<code>PermissionCheckFailed</code> (permission denied)" in shown.text


async def test_what_the_cloud_says_is_shown_as_text(server: Server, signed_in: SignedIn) -> None:
    """Markup in a code of the cloud stays what it is."""
    store = server.app[SERVICES].stores.redis
    seen = {"ok_at_ms": 0, "since_ms": 5, "failed_at_ms": 5, "action": "<i>A", "kind": "<b>k", "code": "<script>x"}
    await store.requests.command("HSET", "{stats}:cloud", *(word for pair in seen.items() for word in pair))
    shown = await (await signed_in()).get("/admin/")
    assert "&lt;script&gt;x</code> (&lt;b&gt;k)" in shown.text
    assert not {"<script>x", "<i>A", "<b>k"} & set(re.findall(r"<(?:script>x|i>A|b>k)", shown.text))


async def test_the_queue_is_shown_with_its_failures(
    server: Server, caller: Caller, cloud: OwnCloud, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the cloud is counted with the time it takes; what failed is a warning that leads to it."""
    monkeypatch.setattr("app.service.delivery.MAX_ATTEMPTS", 1)
    answer = await caller.token()
    await cloud.fault("RevokeToken", "error", code="PermissionCheckFailed", times=None)
    browser = await signed_in()
    assert (await caller.post("/oauth/revoke", caller.form(token=answer.body["handle"]))).status == 200

    async def failed() -> bool:
        return "1 revocation failed at the cloud." in (await browser.get("/admin/")).text

    await until(failed, "a failed revocation on the page")
    shown = await browser.get("/admin/")
    assert 'href="/admin/revocations?show=failed">Show failed revocations' in shown.text
    assert figure(shown, "Revocations queued for the cloud") == "0"


async def test_quotas_are_shown_against_their_limits(server: Server, caller: Caller, signed_in: SignedIn) -> None:
    """Each quota that matters is told with its limit, as text and as a bar."""
    shown = await (await signed_in()).get("/admin/")
    for name in ("ApplyToken", "QueryToken", "RevokeToken"):
        assert f'aria-labelledby="quota-{name}"' in shown.text
    assert shown.text.count("0 of 1,000 per second") == 4
    assert "SendMessage" not in shown.text
    assert "95%" in shown.text


async def test_a_quota_whose_calls_the_cloud_refused_shows_its_pace(server: Server, signed_in: SignedIn) -> None:
    """Back-off shrinks it by 30 %, and the other quotas show nothing of it."""
    browser = await signed_in()
    assert "slowed down" not in (await browser.get("/admin/")).text
    services = server.app[SERVICES]
    quota = SharedQuota(services.stores.redis, limits=quota_settings(services.settings))
    now_us = services.clock.now_ms() * 1000
    await quota.report_calls(
        CallReport(answered=True, failed=False, failing_s=0, throttled={"QueryToken": now_us}, probe="", reason="")
    )
    assert re.findall("slowed down to ([0-9.]+)", (await browser.get("/admin/")).text) == ["666"]


async def test_the_instances_own_checks_are_told_in_words(server: Server, signed_in: SignedIn) -> None:
    """What /readyz says is shown in the reader's language, with the cure; markup in it stays text."""
    browser = await signed_in()
    assert "as in the policy file" in (await browser.get("/admin/")).text
    browser.language = "zh-CN"
    assert "与" in health_of(await browser.get("/admin/"))
    assert "as in the policy file" not in (await browser.get("/admin/")).text

    async def odd() -> HealthCheck:
        return HealthCheck(HealthStatus.DEGRADED, _("the %(file)s was refused", file="<file>"), _("correct it"))

    pings = server.app[SERVICES].pings
    assert isinstance(pings, dict)
    pings["policy"] = odd
    browser.language = "en"
    shown = health_of(await browser.get("/admin/"))
    assert '<span class="pill wait">degraded</span> the &lt;file&gt; was refused<br><small>correct it</small>' in shown


async def test_one_part_that_fails_takes_no_other_along(
    server: Server, caller: Caller, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is slow, out of reach or broken is left out, and says so; all others stand."""
    await caller.token()
    await tell(server)
    browser = await signed_in()

    async def never(_: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def away(_: Any) -> None:
        raise Unavailable("away")

    async def broken(_: Any) -> int:
        raise ValueError

    monkeypatch.setattr(overview, "PART_WITHIN_S", 1.0)
    monkeypatch.setattr(Metrics, "last_hour", away)
    monkeypatch.setattr(Metrics, "cloud_health", never)
    monkeypatch.setattr(Registry, "count_devices", broken)
    shown = await browser.get("/admin/")
    assert shown.status == 200
    assert (figure(shown, "Devices"), figure(shown, "Answered, last hour")) == ("\N{EN DASH}", "\N{EN DASH}")
    assert figure(shown, "Live tokens") == "1"
    assert "This part is temporarily unavailable." in shown.text
    assert "<dd>unknown</dd>" in shown.text
    assert "No device is registered yet." not in shown.text


async def test_with_nothing_in_reach_there_is_no_page(
    server: Server, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of dashes is none: with every part out of reach it is the refusal of an outage."""
    browser = await signed_in()

    async def nothing(_name: str, step: Awaitable[Any]) -> None:
        await step

    monkeypatch.setattr(overview, "_read_part", nothing)
    shown = await browser.get("/admin/")
    assert shown.status == 503
    assert "Temporarily unavailable" in shown.text


async def test_parts_refresh_and_the_search_does_not(signed_in: SignedIn) -> None:
    """Everything that changes is fetched anew, but never the field in which somebody types."""
    shown = await (await signed_in()).get("/admin/")
    refreshed = re.findall(r'id="([a-z-]+)" data-refresh="5"', shown.text)
    assert refreshed == ["alerts", "figures", "hour", "hour-table", "quotas", "health", "soonest", "trail"]
    ids = re.findall(r'\bid="([^"]+)"', shown.text)
    assert len(ids) == len(set(ids))
    assert '<form class="search" method="post" action="/admin/tokens">' in shown.text


async def test_the_page_is_in_the_readers_language(signed_in: SignedIn) -> None:
    """The page says which language it is in."""
    browser = await signed_in()
    browser.language = "zh-CN"
    shown = await browser.get("/admin/")
    assert shown.status == 200
    assert '<html lang="zh-Hans">' in shown.text


async def test_the_first_page_of_all_leads_to_the_console(server: Server) -> None:
    """Whoever opens the server's address is told what it is, in the console's dress and under its headers."""
    async with server.get("/", headers={"Accept-Language": "zh"}) as response:
        assert response.status == 200
        text = await response.text()
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert 'lang="zh-Hans"' in text
    assert 'href="/admin/"' in text
    assert server.app[SERVICES].settings.issuer_url in text
