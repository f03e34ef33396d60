"""From the button to the end: asking, revoking, and watching the cloud confirm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.operators import OperatorRole
from app.service import delivery
from app.service import revocations as module
from app.store.jobs import new_job_id
from app.web.route import SERVICES
from tests.callers import Caller
from tests.waiting import until
from tests.web.conftest import ISSUER, MakeCaller, OwnCloud
from tests.web.console.conftest import Browser, Seen, SignedIn
from tests.web.console.pages import hidden_fields

REVOKE = "/admin/revoke"
UNKNOWN = "07-" + "a" * 22
MARKUP = '"><script>alert(1)</script>'

Fleet = list[tuple[Caller, dict[str, Any]]]
MakeFleet = Callable[[int], Awaitable[Fleet]]


@pytest.fixture
async def browser(signed_in: SignedIn) -> Browser:
    """An operator's browser."""
    return await signed_in(OperatorRole.OPERATOR)


@pytest.fixture
def make_fleet(make_caller: MakeCaller) -> MakeFleet:
    """A function that registers so many devices and gives each a token."""

    async def make(count: int) -> Fleet:
        callers = [await make_caller(f"GID_plant@@@d{number}") for number in range(count)]
        return [(caller, (await caller.token()).body) for caller in callers]

    return make


async def press(browser: Browser, asked: Seen, **more: str) -> Seen:
    """Press the button of the page that asks."""
    fields = hidden_fields(asked.text, REVOKE)
    assert fields is not None, asked.text
    return await browser.post(REVOKE, [*fields, *more.items()])


async def at_other(other: TestClient[Any, Any], caller: Caller, token: dict[str, Any]) -> bool:
    """Tell whether another instance calls the token active."""
    there = Caller(other, ISSUER, caller.client_id, caller.key)
    active: bool = (await there.introspect(token["access_token"])).body["active"]
    return active


async def settled(browser: Browser, address: str) -> Seen:
    """Watch a page until it refreshes itself no more."""

    async def still() -> bool:
        return "data-refresh" not in (await browser.get(address)).text

    await until(still, f"{address} settled")
    return await browser.get(address)


async def test_a_token_is_revoked_in_two_clicks(
    make_fleet: MakeFleet, browser: Browser, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """A link in its row, a button: gone at every instance, and watched until the cloud has confirmed."""
    [(caller, token)] = await make_fleet(1)
    handle = token["handle"]
    address = f"/admin/revoke?handle={handle}"
    assert f'href="{address}"' in (await browser.get("/admin/tokens")).text
    asked = await browser.get(address)
    for text in ("Revoke this token?", caller.client_id, "plant/d0/up/#", "no instance hands it out", "second"):
        assert text in asked.text, text
    assert f'href="/admin/devices/{caller.client_id}/disable"' in asked.text
    assert await at_other(other_server, caller, token)

    seen = await press(browser, asked)
    assert (seen.status, seen.location) == (303, f"/admin/revoked?handle={handle}")
    assert not await at_other(other_server, caller, token)
    page = await settled(browser, seen.location)
    assert "Done: these tokens can no longer be used" in page.text
    assert {each["revoked"] for each in await cloud.tokens()} == {True}
    assert (await caller.token()).status == 200

    # The back button, and the same form once more: said to be done already, and nothing happens.
    assert "This token is already revoked." in (await browser.get(address)).text
    assert hidden_fields((await browser.get(address)).text, REVOKE) is None
    assert (await press(browser, asked)).location == seen.location
    page = await browser.get(f"/admin/tokens/{handle}")
    assert page.text.count("token revoked") == 1
    assert "operator:operator-1" in page.text


async def test_selected_tokens_are_revoked_and_watched_from_another_browser(
    make_fleet: MakeFleet, browser: Browser, signed_in: SignedIn, other_server: TestClient[Any, Any], cloud: OwnCloud
) -> None:
    """Whatever is ticked, each once; what is unknown or was revoked meanwhile is said and stops nothing."""
    fleet = await make_fleet(4)
    handles = [token["handle"] for _, token in fleet]
    query = [("handle", handle) for handle in (*handles[:3], handles[0], UNKNOWN)]
    asked = await browser.ask("GET", REVOKE, params=query)
    assert "Revoke 3 tokens?" in asked.text
    assert "of 3 devices." in asked.text
    assert "unknown, or its record has expired" in asked.text
    await browser.post(REVOKE, [("handle", handles[0])])  # somebody else was quicker
    seen = await press(browser, asked)
    assert seen.status == 303
    for number, (caller, token) in enumerate(fleet):
        assert await at_other(other_server, caller, token) == (number == 3)
    viewer = await signed_in(OperatorRole.VIEWER, client=other_server)
    page = await settled(viewer, seen.location)
    assert "No longer accepted by the broker: 3 of 3" in page.text
    await cloud.until_revoked(6)
    assert await cloud.unrevoked() == 2
    # Whoever follows such an address to what is live is not told that it is revoked.
    page = await viewer.get("/admin/revoked", handle=handles[3])
    assert "1 of these tokens is still live: it was not revoked." in page.text
    assert "Done" not in page.text


async def test_a_device_is_revoked_and_not_locked_out(
    make_fleet: MakeFleet, browser: Browser, other_server: TestClient[Any, Any]
) -> None:
    """All it holds goes; what was revoked of it is listed, and it may ask anew."""
    [(caller, token)] = await make_fleet(1)
    narrow = (await caller.token(scope="sub:plant/all")).body
    asked = await browser.get(REVOKE, client_id=caller.client_id)
    assert "This revokes 2 tokens" in asked.text
    assert "This does not block the device" in asked.text
    seen = await press(browser, asked)
    assert (seen.status, seen.location) == (303, "/admin/revoked?client_id=GID_plant%40%40%40d0")
    page = await settled(browser, seen.location)
    for each in (token, narrow):
        assert each["handle"] in page.text
        assert not await at_other(other_server, caller, each)
    assert "No longer accepted by the broker: 2 of 2" in page.text
    assert (await caller.token()).body["handle"] not in {token["handle"], narrow["handle"]}
    assert (await browser.get(REVOKE, client_id="GID_plant@@@nobody")).status == 404
    assert (
        "There are no records of revoked tokens"
        in (await browser.get("/admin/revoked", client_id="GID_plant@@@nobody")).text
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"role": "sensor"}, "Tokens of role sensor"),
        ({"topic": "sub:plant/all"}, "Tokens that may subscribe to a topic in plant/all"),
        ({"all": "1"}, "All tokens"),
    ],
)
async def test_what_matches_is_revoked_by_a_job_that_any_instance_shows(
    make_fleet: MakeFleet,
    browser: Browser,
    signed_in: SignedIn,
    other_server: TestClient[Any, Any],
    cloud: OwnCloud,
    query: dict[str, str],
    said: str,
) -> None:
    """Counted before; watched to the end at another instance; pressed twice, it is one job."""
    fleet = await make_fleet(3)
    asked = await browser.get(REVOKE, **query)
    assert "This revokes 3 tokens of 3 devices." in asked.text
    more = {"confirm": "everything"} if "all" in query else {}
    seen = await press(browser, asked, **more)
    assert seen.status == 303
    assert seen.location.startswith("/admin/jobs/")
    viewer = await signed_in(OperatorRole.VIEWER, client=other_server)
    page = await settled(viewer, seen.location)
    assert said in page.text
    assert "Processed at the cloud: 3 of 3" in page.text
    for caller, token in fleet:
        assert not await at_other(other_server, caller, token)
    await cloud.until_revoked(6)
    later = (await fleet[0][0].token()).body
    assert (await press(browser, asked, **more)).location == seen.location
    assert await at_other(other_server, fleet[0][0], later)
    listed = (await viewer.get("/admin/revocations")).text
    assert listed.count('href="/admin/jobs/') == 1
    assert f'href="{seen.location}"' in listed


async def test_everything_needs_the_word(make_fleet: MakeFleet, browser: Browser, server: TestClient[Any, Any]) -> None:
    """Without it, or with another, nothing is revoked, and the page asks once more."""
    [(caller, token)] = await make_fleet(1)
    asked = await browser.get(REVOKE, all="1")
    for word in ("", "yes", "Everything", MARKUP, "x" * 10_000):
        seen = await press(browser, asked, confirm=word)
        assert seen.status == 400
        assert "type everything into the field" in seen.text
        assert "<script>alert" not in seen.text
        assert hidden_fields(seen.text, REVOKE) is not None
    assert (await caller.introspect(token["handle"])).body["active"] is True
    assert (await server.app[SERVICES].jobs.list_jobs()).jobs == ()
    assert (await press(browser, seen, confirm=" everything ")).status == 303


async def test_a_selection_of_nothing_or_of_too_much_is_refused(
    make_fleet: MakeFleet, browser: Browser, server: TestClient[Any, Any]
) -> None:
    """Asked and pressed alike, and nothing is revoked."""
    [(caller, token)] = await make_fleet(1)
    handle, job = ("handle", token["handle"]), ("job", new_job_id())
    wrong: list[tuple[list[tuple[str, str]], int]] = [
        ([], 400),
        ([("handle", "")], 400),
        ([("all", "0")], 400),
        ([("all", "nonsense")], 400),
        ([("all", "")], 400),
        ([("role", "")], 400),
        ([("role", "*")], 400),
        ([("topic", "#")], 400),
        ([("topic", MARKUP)], 400),
        ([("topic", "x" * 3000)], 400),
        ([("role", "a"), ("topic", "b")], 400),
        ([("role", "a"), ("role", "b")], 400),
        ([("role", "sensor"), ("all", "1")], 400),
        ([handle, ("role", "sensor")], 400),
        ([handle, ("all", "1")], 400),
        ([handle, ("nonsense", "1")], 400),
        ([("handle", f"{number:02d}-{'a' * 22}") for number in range(51)], 400),
        ([("handle", UNKNOWN)], 404),
        ([("handle", UNKNOWN), ("handle", MARKUP)], 404),
        ([("client_id", "nonsense")], 400),
        ([("client_id", "GID_plant@@@nobody")], 404),
    ]
    for fields, status in wrong:
        seen = await browser.ask("GET", REVOKE, params=fields)
        assert seen.status == status, (fields, seen.text)
        assert "<script>alert" not in seen.text
        seen = await browser.post(REVOKE, [*fields, job])
        assert seen.status == status, (fields, seen.text)
        assert "<script>alert" not in seen.text
    for page in ("", "?handle=", "?client_id=nonsense", "?handle=a&client_id=GID_plant@@@d1"):
        assert (await browser.get(f"/admin/revoked{page}")).status == 400
    assert (await caller.introspect(token["handle"])).body["active"] is True
    assert (await server.app[SERVICES].jobs.list_jobs()).jobs == ()


async def test_fifty_handles_fit_and_each_counts_once(make_fleet: MakeFleet, browser: Browser) -> None:
    """A page of boxes, all ticked, and some twice."""
    [(_, token)] = await make_fleet(1)
    handles = [f"{number:02d}-{'a' * 22}" for number in range(49)] + [token["handle"]] * 3
    asked = await browser.ask("GET", REVOKE, params=[("handle", handle) for handle in handles])
    assert "Revoke 1 token?" in asked.text
    seen = await browser.post(REVOKE, [("handle", handle) for handle in handles])
    assert seen.status == 303
    assert seen.location.count("handle=") == 50
    assert "No longer accepted by the broker: 50 of 50" in (await settled(browser, seen.location)).text


async def test_a_jobs_id_begins_what_it_was_drawn_for_and_nothing_else(
    make_fleet: MakeFleet, browser: Browser, server: TestClient[Any, Any]
) -> None:
    """Sent with another selection, made up or left out, it is refused."""
    await make_fleet(1)
    asked = await browser.get(REVOKE, role="nobody")
    assert hidden_fields(asked.text, REVOKE) is None  # nothing matches: nothing to press
    asked = await browser.get(REVOKE, topic="plant/#")
    job = dict(hidden_fields(asked.text, REVOKE) or [])["job"]
    assert (await press(browser, asked)).location == f"/admin/jobs/{job}"
    for fields in (
        {"role": "sensor", "job": job},
        {"topic": "pub:plant/#", "job": job},
        {"all": "1", "confirm": "everything", "job": job},
        {"role": "sensor", "job": "nonsense"},
        {"role": "sensor", "job": MARKUP},
        {"role": "sensor"},
    ):
        seen = await browser.post(REVOKE, fields)
        assert seen.status == 400, fields
        assert "<script>alert" not in seen.text
    assert [each.id for each in (await server.app[SERVICES].jobs.list_jobs()).jobs] == [job]
    for unknown in (new_job_id(), "nonsense", "x" * 3000, "%3Cscript%3Ealert"):
        seen = await browser.get(f"/admin/jobs/{unknown}")
        assert seen.status == 404
        assert "<script>alert" not in seen.text


async def test_a_count_without_time_says_what_it_has_so_far(
    make_fleet: MakeFleet, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least so many, and that all of them are revoked; never a number that is too small as if it were whole."""
    await make_fleet(3)
    monkeypatch.setattr(module, "PREVIEW_BUDGET_S", -1)
    for topic in ("plant/#", "nothing/#"):
        asked = await browser.get(REVOKE, topic=topic)
        assert "This revokes at least" in asked.text
        assert "All matching tokens will be revoked." in asked.text
        assert hidden_fields(asked.text, REVOKE) is not None
    asked = await browser.get(REVOKE, role="sensor")
    assert "This revokes 3 tokens of at least 1 device." in asked.text


async def test_while_the_cloud_is_away_the_pages_say_what_is_still_valid(
    make_fleet: MakeFleet, browser: Browser, cloud: OwnCloud
) -> None:
    """Revoking is answered all the same; what waits is shown as waiting until the cloud is back."""
    [(_, one), (_, two)] = await make_fleet(2)
    await cloud.fault("RevokeToken", "error", code="InternalError", times=None)
    seen = await press(browser, await browser.get(REVOKE, handle=one["handle"]))
    page = (await browser.get(seen.location)).text
    assert "No longer accepted by the broker: 0 of 1" in page
    assert "still valid at the broker until the cloud confirms" in page
    assert "No revocation is lost: the server keeps retrying" in page
    job = await press(browser, await browser.get(REVOKE, role="sensor"))
    assert "Processed at the cloud: 0 of 1" in (await browser.get(job.location)).text

    async def both_wait() -> bool:
        queue = (await browser.get("/admin/revocations")).text
        return one["handle"] in queue and two["handle"] in queue

    await until(both_wait, "both shown as waiting")
    await cloud.clear()
    await settled(browser, seen.location)
    assert "Processed at the cloud: 1 of 1" in (await settled(browser, job.location)).text


async def test_what_the_cloud_refused_is_retried_or_dropped(
    make_fleet: MakeFleet, browser: Browser, signed_in: SignedIn, cloud: OwnCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First on the page of revocations, with both ways out; once gone, a second press says so."""
    await cloud.fault("RevokeToken", "error", code="InstancePermissionCheckFailed", times=None)
    monkeypatch.setattr(delivery, "MAX_ATTEMPTS", 1)
    fleet = await make_fleet(2)
    retried, dropped = (token["handle"] for _, token in fleet)
    queue = await browser.get("/admin/revocations")
    assert "No revocation is queued: the cloud has confirmed all of them." in queue.text
    assert "There was no bulk revocation" in queue.text
    seen = await browser.post(REVOKE, [("handle", retried), ("handle", dropped)])
    page = await settled(browser, seen.location)
    assert "2 of these tokens are valid at the broker until they expire" in page.text
    viewer = await signed_in(OperatorRole.VIEWER)
    for verb in ("retry", "drop"):
        for handle in (retried, dropped):
            address = f"/admin/tokens/{handle}/{verb}"
            for where in ("/admin/revocations", "/admin/revocations?show=failed", f"/admin/tokens/{handle}"):
                assert f'action="{address}"' in (await browser.get(where)).text
                assert f'action="{address}"' not in (await viewer.get(where)).text
            assert (await viewer.post(address)).status == 403
    await cloud.clear()
    for handle, verb, said in ((retried, "retry", "queued again"), (dropped, "drop", "given up")):
        seen = await browser.post(f"/admin/tokens/{handle}/{verb}")
        assert (seen.status, seen.location) == (
            303,
            f"/admin/tokens/{handle}?done={'retried' if verb == 'retry' else 'dropped'}",
        )
        assert said in (await browser.follow(seen)).text
    assert ">revoked<" in (await settled(browser, f"/admin/tokens/{retried}")).text
    for handle in (retried, dropped):
        for verb in ("retry", "drop"):
            seen = await browser.post(f"/admin/tokens/{handle}/{verb}")
            assert seen.status == 404
            assert "this token has no failed revocation" in seen.text
            assert handle in seen.text
    for handle in (UNKNOWN, "nonsense"):
        assert (await browser.post(f"/admin/tokens/{handle}/retry")).status == 404
    assert sorted(each["revoked"] for each in await cloud.tokens()) == [False, False, True, True]


@pytest.mark.parametrize("query", ["?show=nonsense", "?cursor=nonsense&show=failed", "?cursor=x&show=jobs", "?a=b"])
async def test_a_wrong_address_of_the_queue_is_refused(browser: Browser, query: str) -> None:
    """With a page that says so."""
    assert (await browser.get(f"/admin/revocations{query}")).status == 400


async def test_a_viewer_sees_and_does_nothing(make_fleet: MakeFleet, signed_in: SignedIn) -> None:
    """No form to revoke is shown to a viewer, and one that is sent all the same is refused."""
    [(caller, token)] = await make_fleet(1)
    viewer = await signed_in(OperatorRole.VIEWER)
    for page in ("tokens", "revocations", f"tokens/{token['handle']}", f"revoked?handle={token['handle']}"):
        seen = await viewer.get(f"/admin/{page}")
        assert seen.status == 200
        assert "/admin/revoke?" not in seen.text
        assert 'action="/admin/revoke"' not in seen.text
    for fields in ({"handle": token["handle"]}, {"role": "sensor", "job": new_job_id()}):
        assert (await viewer.get(REVOKE, **fields)).status == 403
        assert (await viewer.post(REVOKE, fields)).status == 403
    assert (await caller.introspect(token["handle"])).body["active"] is True
