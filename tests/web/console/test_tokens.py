"""Who holds what: the list, the search and the page of a token."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.model.operators import OperatorRole
from app.service import revocations as module
from app.store import index
from app.web.console import tokens
from tests.callers import Caller
from tests.web.conftest import MakeCaller
from tests.web.console.conftest import Browser, SignedIn

MARKUP = '"><script>alert(1)</script>'
UNKNOWN = "07-" + "a" * 22


@pytest.fixture
async def browser(signed_in: SignedIn) -> Browser:
    """An operator's browser."""
    return await signed_in(OperatorRole.OPERATOR)


async def handle_of(caller: Caller) -> str:
    """Let a device ask for a token, and return its handle."""
    handle: str = (await caller.token()).body["handle"]
    return handle


async def test_nothing_is_shown_as_nothing(browser: Browser) -> None:
    """A new set-up says that no token is live, and when one will be."""
    seen = await browser.get("/admin/tokens")
    assert seen.status == 200
    assert "There are no live tokens" in seen.text
    for query, said in (
        ({"client_id": "GID_plant@@@d9"}, "This device has no live token"),
        ({"role": "sensor"}, "No live token was issued under this role"),
        ({"topic": "plant/#"}, "No live token has this permission"),
    ):
        assert said in (await browser.get("/admin/tokens", **query)).text


async def test_tokens_are_found_by_whatever_is_in_hand(make_caller: MakeCaller, browser: Browser) -> None:
    """A client ID, a role, a topic, a handle, a password or one cloud token: each leads to what it names."""
    caller = await make_caller("GID_plant@@@d1")
    token = (await caller.token()).body
    other = await handle_of(await make_caller("GID_other@@@d2", role="line", attributes={"line": "l7"}))
    handle = token["handle"]
    for text, address in (
        ("GID_plant@@@d1", "/admin/tokens?client_id=GID_plant%40%40%40d1"),
        ("  sensor ", "/admin/tokens?role=sensor"),
        ("plant/d1/#", "/admin/tokens?topic=plant%2Fd1%2F%23"),
        ("pub:plant/d1/+", "/admin/tokens?topic=pub%3Aplant%2Fd1%2F%2B"),
        (handle, f"/admin/tokens/{handle}"),
        (token["access_token"], f"/admin/tokens/{handle}"),
        (token["mqtt"]["tokens"][0]["token"], f"/admin/tokens/{handle}"),
        ("", "/admin/tokens"),
        ("#", "/admin/tokens"),
    ):
        seen = await browser.post("/admin/tokens", {"q": text, "by": "auto"})
        assert (seen.status, seen.location) == (303, address)
        page = await browser.follow(seen)
        assert page.status == 200
        assert handle in page.text
        assert (other in page.text) == (text in {"", "#"})
        assert token["access_token"] not in page.text


async def test_what_is_said_goes_before_the_guess(browser: Browser) -> None:
    """Whoever names what it is gets that; the page says it in words, and offers what else it could be."""
    for text, by, query in (
        ("plant", "auto", {"role": ["plant"]}),
        ("plant", "role", {"role": ["plant"]}),
        ("plant", "topic", {"topic": ["plant"]}),
        ("plant", "pub", {"topic": ["pub:plant"]}),
        ("sub:plant", "sub", {"topic": ["sub:plant"]}),
    ):
        seen = await browser.post("/admin/tokens", {"q": text, "by": by})
        assert parse_qs(urlsplit(seen.location).query) == query
    page = (await browser.get("/admin/tokens", role="plant")).text
    assert "Tokens of role plant" in page
    for other in ("pub%3Aplant", "sub%3Aplant", "plant"):
        assert f'href="/admin/tokens?topic={other}"' in page
    page = (await browser.get("/admin/tokens", topic="pub:plant")).text
    assert "<h2>Tokens that may publish to a topic in plant</h2>" in page
    assert 'href="/admin/tokens?role=plant"' in page
    assert 'value="plant"' in page


async def test_a_token_in_hand_gets_into_no_address_and_no_page(caller: Caller, browser: Browser) -> None:
    """Known or not, and whatever somebody says it is, it is neither shown again nor quoted in a refusal."""
    password = (await caller.token()).body["access_token"]
    unknown = "R|" + "LzMT+XLFl5s/YWJ+zz" * 3
    long_one = "LzMT+XLFl5s/YWJ+zz" * 20
    for text in (password, unknown, long_one):
        for by in ("client_id", "role", "topic", "pub", "sub", "token", "auto"):
            seen = await browser.post("/admin/tokens", {"q": text, "by": by})
            if text == password and by in {"token", "auto"}:
                assert seen.status == 303
                continue
            assert seen.status == (404 if by in {"token", "auto"} else 400), (text, by)
            assert text[:30] not in seen.text
            assert f'<option value="{by}" selected>' in seen.text


@pytest.mark.parametrize(
    "text", ["x" * 10_000, MARKUP, "plant/\x00/d1", "plant/\x1b[31m", "\u202eplant", "a b/c", "a/#/b", "$SYS/x", "@@@"]
)
async def test_bad_input_is_refused_on_the_page_of_the_search(browser: Browser, text: str) -> None:
    """With what is wrong, as text and never as markup; nothing else is listed below it."""
    seen = await browser.post("/admin/tokens", {"q": text, "by": "auto"})
    assert seen.status in {400, 404}
    assert 'action="/admin/tokens"' in seen.text
    assert "<script>" not in seen.text.replace('<script src="', "")
    assert "All tokens" not in seen.text
    for query in ({"topic": text}, {"role": text}, {"client_id": text}):
        if len(text) < 1000 and "\x00" not in text:
            seen = await browser.get("/admin/tokens", **query)
            assert seen.status in {200, 400}
            assert MARKUP not in seen.text


@pytest.mark.parametrize(
    "query",
    [
        {"role": "sensor", "topic": "a"},
        {"topic": "#"},
        {"role": ["a", "b"]},
        {"nonsense": "1"},
        {"cursor": "nonsense"},
        {"role": "*"},
    ],
)
async def test_a_wrong_address_shows_the_search_and_what_is_wrong(browser: Browser, query: Any) -> None:
    """Nothing wider than what was asked for is listed in its place."""
    seen = await browser.get("/admin/tokens", **query)
    assert seen.status == 400
    assert 'role="alert"' in seen.text
    assert "<h2>" not in seen.text


async def test_the_list_goes_on_page_by_page(
    make_caller: MakeCaller, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to expire first, each token once, and with a last page."""
    monkeypatch.setattr(tokens, "PAGE", 2)
    handles = {await handle_of(await make_caller(f"GID_plant@@@d{number}")) for number in range(5)}
    for query in ({}, {"role": "sensor"}, {"topic": "plant/#"}):
        met: list[str] = []
        seen = await browser.get("/admin/tokens", **query)
        while True:
            met += [handle for handle in handles if f'value="{handle}"' in seen.text]
            if 'rel="next"' not in seen.text:
                break
            address = seen.text.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]
            seen = await browser.get(address.replace("&amp;", "&"))
            assert seen.status == 200
        assert sorted(met) == sorted(handles)


async def test_an_unfinished_search_says_how_far_it_is(
    make_caller: MakeCaller, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of time a topic's page may be empty: it says so, says how far it came, and goes on."""
    for number in range(4):
        await handle_of(await make_caller(f"GID_plant@@@d{number}"))
    monkeypatch.setattr(index, "CHUNK", 2)
    monkeypatch.setattr(module, "SEARCH_BUDGET_S", -1)
    seen = await browser.get("/admin/tokens", topic="nothing/#")
    assert "No match so far." in seen.text
    assert "Searched so far: 50% of all live tokens" in seen.text
    assert ">Continue the search</a>" in seen.text
    assert "No live token has this permission" not in seen.text


async def test_a_token_is_shown_with_all_that_is_known(
    make_caller: MakeCaller, browser: Browser, signed_in: SignedIn
) -> None:
    """Device, role, permissions, times, state and what happened; a viewer sees the same without the button."""
    caller = await make_caller("GID_plant@@@d1")
    token = (await caller.token()).body
    address = f"/admin/tokens/{token['handle']}"
    seen = await browser.get(address)
    for text in (
        'href="/admin/devices/GID_plant@@@d1"',
        ">sensor</a>",
        "plant/d1/up/#",
        "<dt>Expires</dt><dd><time datetime=",
        ">live<",
        "token issued",
        "the device itself",
    ):
        assert text in seen.text, text
    revoke = f'href="/admin/revoke?handle={token["handle"]}"'
    assert revoke in seen.text
    viewer = await signed_in(OperatorRole.VIEWER)
    for page in (await viewer.get(address), await viewer.get("/admin/tokens")):
        assert page.status == 200
        assert token["handle"] in page.text
        assert "/admin/revoke" not in page.text
        assert "checkbox" not in page.text


@pytest.mark.parametrize("handle", [UNKNOWN, "nonsense", "99-" + "a" * 22, "x" * 3000, "%3Cscript%3E", "%00", "%2F"])
async def test_what_is_no_token_of_ours_is_not_found(browser: Browser, handle: str) -> None:
    """A page says so."""
    seen = await browser.get(f"/admin/tokens/{handle}")
    assert seen.status == 404
    assert "<script>" not in seen.text
