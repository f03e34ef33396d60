"""What no page may get wrong, asked of each address in the route table: a new one is asked as soon as it is there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from http.cookies import Morsel
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import pytest
import redis
from aiohttp.test_utils import TestClient
from markupsafe import Markup

from app.model.operators import OperatorRole
from app.model.text import Text
from app.service.registry import Registration, Registry
from app.service.revocations import Revocations
from app.settings import Settings
from app.web.console.rendering import _replace_illegible
from app.web.console.session import LanguageForm, SignInForm, console_address
from app.web.conversion import RequestModel
from app.web.route import Route
from app.web.routes import CONSOLE
from tests.actors import CLI
from tests.callers import Caller
from tests.web.conftest import ISSUER, connected_server
from tests.web.console.conftest import PASSWORD, SAME_ORIGIN, Browser, Seen, SignedIn

GETS = [page for page in CONSOLE if page.method == "GET"]
POSTS = [page for page in CONSOLE if page.method == "POST"]
MORE_POSTS = ("/admin/sign-in", "/admin/sign-out", "/admin/language")
STRANGE = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ISSUER.replace("https:", "http:")},
    {"Origin": f"{ISSUER}:8443"},
    {"Origin": f"{ISSUER}.evil.example"},
    {"Origin": ISSUER.upper()},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": ISSUER, "Sec-Fetch-Site": "cross-site"},
    {"Origin": ISSUER, "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "", "Sec-Fetch-Site": ""},
]
"""What browsers say of a form that no page of this console sent; the last ones are no browser's."""

CLIENT_ID = "GID_plant@@@d1"


@pytest.fixture
def plain_settings(settings: Settings) -> Settings:
    """The same set-up, reached by http."""
    return settings.model_copy(update={"issuer_url": "http://127.0.0.1:8080"})


@pytest.fixture
async def plain_server(plain_settings: Settings) -> AsyncIterator[TestClient[Any, Any]]:
    """An instance that browsers reach by http, as those of `dev` are."""
    async with connected_server(plain_settings) as client:
        yield client


def address(page: Route, value: str = "") -> str:
    """Return an address of the page; each of its variables is ``value``, or something that looks right."""
    right = {"client_id": CLIENT_ID, "handle": "17-AAAAAAAAAAAAAAAAAAAAAA", "group_id": "GID_plant", "rest": "nothing"}
    return re.sub(r"\{(\w+)(?::[^}]*)?\}", lambda match: quote(value or right.get(match[1], "x"), safe="@:"), page.path)


# Headers and cookies.


def check_headers(seen: Seen, *, secure: bool, where: str) -> None:
    """See that an answer forbids whatever no page of the console needs."""
    headers = seen.headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("frame-ancestors") == "'none'", where
    assert set(policy) == {"script-src", "style-src", "img-src", "connect-src", "form-action"}, where
    assert set(" ".join(policy.values()).split()) == {"'self'", "data:"}, where
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'", where
    assert headers["X-Content-Type-Options"] == "nosniff", where
    assert headers["X-Frame-Options"] == "DENY", where
    assert headers["Referrer-Policy"] == "same-origin", where
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin", where
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin", where
    assert "geolocation=()" in headers["Permissions-Policy"], where
    assert ("max-age=31536000" in headers.get("Strict-Transport-Security", "")) is secure, where
    assert "Access-Control-Allow-Origin" not in headers, where
    assert headers["Server"] == "mqtt-token-server", where
    assert ("immutable" in headers["Cache-Control"]) is ("/static/" in where and "?v=" in where), where
    assert "no-store" in headers["Cache-Control"] or "immutable" in headers["Cache-Control"], where


async def every_answer(browser: Browser, same_origin: dict[str, str]) -> AsyncIterator[tuple[str, Seen]]:
    """Yield every kind of answer that the console gives."""
    for page in GETS:
        yield address(page), await browser.get(address(page))
    for page in POSTS:
        yield address(page), await browser.post(address(page), headers=same_origin)
        yield address(page), await browser.post(address(page), headers={})
    home = await browser.get("/admin/")
    for path in (*re.findall(r'(?:href|src)="(/admin/static/[^"]+)"', home.text), "/admin/static/nothing.css"):
        yield path, await browser.get(path)
    yield "/admin", await browser.get("/admin")
    yield "/admin/sign-in", await browser.get("/admin/sign-in")
    yield "DELETE", await browser.ask("DELETE", "/admin/tokens")
    yield "413", await browser.ask("POST", "/admin/tokens", headers=same_origin, data={"q": "x" * 70_000})
    stranger = Browser(browser.client)
    yield "stranger", await stranger.get("/admin/tokens")
    yield "stranger", await stranger.post("/admin/tokens", headers=same_origin)
    yield "sign-in", await stranger.get("/admin/sign-in")
    yield "sign-in", await stranger.post("/admin/sign-in", {"name": "x", "password": "y"}, headers=same_origin)
    yield "language", await stranger.post("/admin/language", {"language": "zh"}, headers=same_origin)
    yield "refresh", await stranger.ask("GET", "/admin/", headers={"X-Refresh": "1"})
    yield "sign-out", await browser.post("/admin/sign-out", headers=same_origin)


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_every_answer_has_the_headers_that_harden_it(
    scheme: str,
    server: TestClient[Any, Any],
    plain_server: TestClient[Any, Any],
    plain_settings: Settings,
    signed_in: SignedIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages, files, redirects and refusals alike: no foreign script, no frame, no cache; HSTS where there is TLS."""
    browser = await signed_in(OperatorRole.ADMIN)
    origin = {"Origin": ISSUER}
    if scheme == "http":
        origin = {"Origin": plain_settings.issuer_url}
        browser = Browser(plain_server)
        await browser.post("/admin/sign-in", {"name": "admin-1", "password": PASSWORD}, headers=origin)
        assert (await browser.get("/admin/")).status == 200
    statuses = set()
    async for where, seen in every_answer(browser, origin):
        check_headers(seen, secure=scheme == "https", where=where)
        statuses.add(seen.status)
    assert statuses >= {200, 303, 401, 403, 404, 405, 413}


async def test_a_fault_shows_nothing_of_itself_and_is_as_hard(
    signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that breaks says so, in a page as strict as the others, and tells nothing of what broke."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret inside")

    browser = await signed_in()
    monkeypatch.setattr(Revocations, "list_tokens", broken)
    seen = await browser.get("/admin/tokens")
    assert seen.status == 500
    assert "secret inside" not in seen.text
    assert "Traceback" not in seen.text
    check_headers(seen, secure=True, where="500")


async def test_what_only_begins_like_the_console_is_no_page_of_it(server: TestClient[Any, Any]) -> None:
    """An address beside the console's is answered as JSON: no page goes out without the headers of pages."""
    seen = await Browser(server).get("/administrators")
    assert seen.status == 404
    assert seen.headers["Content-Type"].startswith("application/json")


def flags(morsel: Morsel[str]) -> dict[str, Any]:
    """Return what a cookie is set with."""
    return {name: morsel[name] for name in ("path", "httponly", "secure", "samesite", "domain")}


async def test_a_session_is_in_a_cookie_that_only_this_server_sets_and_sees(
    server: TestClient[Any, Any], signed_in: SignedIn
) -> None:
    """Behind TLS the cookie is a ``__Host-`` one: Secure, HttpOnly, for the whole host, never for a foreign request."""
    await signed_in(name="ada")
    seen = await Browser(server).sign_in("ada")
    [(name, morsel)] = seen.cookies.items()
    assert name == "__Host-session"
    assert flags(morsel) == {"path": "/", "httponly": True, "secure": True, "samesite": "Strict", "domain": ""}
    assert (morsel["max-age"], morsel["expires"]) == ("", "")  # it goes with the browser
    assert len(morsel.value) >= 22


async def test_without_tls_the_cookie_is_the_same_but_for_secure(
    plain_server: TestClient[Any, Any], plain_settings: Settings, signed_in: SignedIn
) -> None:
    """A browser would not send a Secure cookie over http, nor take a ``__Host-`` one."""
    await signed_in(name="ada")
    browser = Browser(plain_server)
    form = {"name": "ada", "password": PASSWORD}
    seen = await browser.post("/admin/sign-in", form, headers={"Origin": plain_settings.issuer_url})
    [(name, morsel)] = seen.cookies.items()
    assert name == "session"
    assert flags(morsel) == {"path": "/", "httponly": True, "secure": "", "samesite": "Strict", "domain": ""}
    out = await browser.post("/admin/sign-out", headers={"Origin": plain_settings.issuer_url})
    assert out.cookies["session"].value == ""
    assert flags(out.cookies["session"]) == flags(morsel)


async def test_signing_in_always_begins_another_session(signed_in: SignedIn) -> None:
    """Nobody can plant a session: what the browser held before is ended, and not what it holds after."""
    browser = await signed_in(name="ada")
    planted = Browser(browser.client, cookies=dict(browser.cookies))
    before = browser.cookies["__Host-session"]
    await browser.sign_in("ada")
    assert browser.cookies["__Host-session"] != before
    assert (await planted.get("/admin/")).status == 303
    assert (await browser.get("/admin/")).status == 200


async def test_no_session_is_taken_from_elsewhere_than_its_cookie(signed_in: SignedIn) -> None:
    """A session in the query, in a header or under the name it has without TLS is none."""
    browser = await signed_in()
    session = browser.cookies["__Host-session"]
    stranger = Browser(browser.client)
    for headers in ({"Authorization": f"Bearer {session}"}, {"Cookie": f"session={session}"}):
        assert (await stranger.ask("GET", "/admin/", headers=headers)).status == 303
    for cookie in ("", "x", "x" * 200, session[:-1], f"{session}x", session.swapcase(), '"', "\u00e9", session * 40):
        stranger.cookies = {"__Host-session": cookie}
        assert (await stranger.get("/admin/")).status == 303, cookie


# Whose form it is.


def everything_in(url: str) -> dict[bytes, bytes]:
    """Return all that lies in Redis, but for what changes by itself: sessions in use, counts, quota, shipping."""
    with redis.Redis.from_url(url) as client:
        by_itself = rb"\{(ops\}:s|tries|q\}|stats|refused|strangers|audit).*|.*:a:shipped"
        keys = [key for key in client.keys("*") if not re.fullmatch(by_itself, key)]
        return {key: client.dump(key) for key in keys}


async def test_no_form_of_another_site_is_taken(signed_in: SignedIn, caller: Caller, redis_url: str) -> None:
    """Each form refuses whatever did not come from this very console, before it does anything."""
    await caller.token()
    browser = await signed_in(OperatorRole.ADMIN)
    before = everything_in(redis_url)
    taken = []
    for path in (*MORE_POSTS, *(address(page) for page in POSTS)):
        for headers in STRANGE:
            seen = await browser.post(path, {"name": "admin-1", "password": PASSWORD, "language": "zh"}, headers)
            if seen.status != 403 or seen.cookies:
                taken.append((path, headers, seen.status))
    assert taken == []
    assert everything_in(redis_url) == before
    assert (await browser.get("/admin/")).status == 200


@pytest.mark.parametrize("headers", [{"Origin": ISSUER}, {"Sec-Fetch-Site": "same-origin"}, SAME_ORIGIN])
async def test_a_form_of_our_own_is_taken(signed_in: SignedIn, headers: dict[str, str]) -> None:
    """Either header is enough: not every browser sends both."""
    browser = await signed_in()
    assert (await browser.post("/admin/tokens", {"q": CLIENT_ID}, headers)).status == 303


# Who may do what.


async def test_no_page_is_shown_and_no_form_taken_without_a_session(
    server: TestClient[Any, Any], caller: Caller, redis_url: str
) -> None:
    """A page leads to the sign-in page; a form is kept and comes back after signing in, and does nothing before."""
    await caller.token()
    before = everything_in(redis_url)
    stranger = Browser(server)
    for page in GETS:
        seen = await stranger.get(address(page))
        assert seen.status == 303, page.path
        assert urlsplit(seen.location).path == "/admin/sign-in", page.path
    for page in POSTS:
        seen = await stranger.post(address(page), {"typed": "something"})
        assert seen.status == 401, page.path
        assert 'name="pending_form" value="' in seen.text, page.path
        assert "something" not in seen.text, page.path
    assert everything_in(redis_url) == before


async def test_who_has_too_low_a_role_is_refused(signed_in: SignedIn, caller: Caller, redis_url: str) -> None:
    """Each page and each form refuses every role below its own, and nothing changes."""
    await caller.token()
    browsers = {role: await signed_in(role) for role in OperatorRole}
    before = everything_in(redis_url)
    for page in CONSOLE:
        for role, browser in browsers.items():
            if not role.covers(page.access.role):
                send = browser.get if page.method == "GET" else browser.post
                seen = await send(address(page))
                assert seen.status == 403, (page, role)
                assert "pending_form" not in seen.text
    assert everything_in(redis_url) == before


async def test_the_switch_of_languages_leads_to_a_page(signed_in: SignedIn) -> None:
    """Also on the page that refuses a form: a button may send to where no page is."""
    admin = await signed_in(OperatorRole.ADMIN)
    pages = [re.sub(r"\{[^}]+\}", "[^/]+", page.path) for page in GETS if "{rest" not in page.path]
    for page in POSTS:
        seen = await admin.post(address(page), {"unknown": "x"})
        to = re.search(r'name="to" value="([^"]+)"', seen.text)
        assert to, page.path
        assert any(re.fullmatch(path, to[1]) for path in pages), (page.path, to[1])


async def test_every_page_opens_for_the_role_it_names(signed_in: SignedIn) -> None:
    """Nobody is promised a page by the route table that refuses them; what is not there is 404, not 403 or 500."""
    browsers = {role: await signed_in(role) for role in OperatorRole}
    for page in GETS:
        seen = await browsers[page.access.role].get(address(page))
        assert seen.status in {200, 303, 400, 404}, (page.path, seen.status)


async def test_the_navigation_shows_what_one_may_open_and_nothing_else(signed_in: SignedIn) -> None:
    """Every address in the header opens for who sees it: nobody is led to a refusal."""
    for role in OperatorRole:
        browser = await signed_in(role)
        home = await browser.get("/admin/")
        for path in set(re.findall(r'<a href="(/admin/[^"]*)"', home.text.partition("<main")[0])):
            assert (await browser.get(path)).status == 200, (role, path)


# Where one is led.


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example",
        "//evil.example/admin/",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/admin/\\evil.example",
        "https://evil.example/admin/",
        "https:evil.example",
        "https:/admin/",
        "HTTPS://evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "/",
        "/adminx",
        "/oauth/token",
        "admin/tokens",
        "evil.example",
        "@evil.example",
        "/admin//evil.example",
        "/admin/../..",
        "/admin/..//evil.example",
        "/admin/%2e%2e/oauth/token",
        "/admin/.%2E/",
        "/admin/./../x",
        "/admin/tokens\r\nSet-Cookie: a=b",
        "/admin/tokens\x00",
        "/\t/evil.example",
        "\n//evil.example",
        "/admin/\u2028",
        "//[",
        "http://[",
        "//evil.example\u2100",
        "",
    ],
)
def test_nobody_is_led_elsewhere(to: str) -> None:
    """What came with an address leads to a page of the console, or to the overview."""
    assert console_address(to) == "/admin/"


@pytest.mark.parametrize(
    "to", ["/admin/", "/admin/tokens?topic=a%2F%2F%23&x=//y", f"/admin/devices/{CLIENT_ID}", "/admin/a?b=.."]
)
def test_one_is_led_to_the_page_one_meant(to: str) -> None:
    """A page of the console stays what it was, query and all."""
    assert console_address(to) == to


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/admin/../..", "//["])
async def test_no_redirect_leaves_the_console(signed_in: SignedIn, to: str) -> None:
    """Signing in, being signed in already, and the switch of languages all lead to the console alone."""
    browser = await signed_in(name="ada")
    assert (await browser.get("/admin/sign-in", to=to)).location == "/admin/"
    assert (await browser.post("/admin/language", {"language": "zh", "to": to})).location == "/admin/"
    form = {"name": "ada", "password": PASSWORD, "to": to}
    assert (await browser.post("/admin/sign-in", form)).location == "/admin/"


# Hostile input.


@pytest.mark.parametrize(
    "form",
    [
        {"name": "ada"},
        {"password": PASSWORD},
        {"name": "ada", "password": ""},
        {"name": "a" * 60_000, "password": PASSWORD},
        {"name": "ada", "password": "x" * 60_000},
        {"name": "ada\x00", "password": PASSWORD},
        {"name": "ADA", "password": PASSWORD},
        {"name": " ada", "password": PASSWORD},
        {"name": "ada", "password": f"{PASSWORD}\x00"},
        {"name": "ada", "password": "\ud83d\ude00" * 10},
        {"name": "*", "password": "*"},
        {"name": "{ops}:people", "password": PASSWORD},
        {"name": "ada", "password": PASSWORD, "role": "admin"},
        {"name": "ada", "password": PASSWORD, "pending_form": "x"},
        [("name", "ada"), ("name", "eve"), ("password", PASSWORD)],
        [("name", "ada"), ("password", "wrong wrong wrong"), ("password", PASSWORD)],
        b"name=ada&password=%ff%fe",
        b"name=ada&password=\xff",
        b"&".join(b"a%d=b" % number for number in range(600)),
        b"",
    ],
    ids=lambda form: repr(form)[:40],
)
async def test_a_hostile_sign_in_is_refused_politely(
    server: TestClient[Any, Any], signed_in: SignedIn, form: Any
) -> None:
    """Whatever is sent for a name and a password, the answer is a refusal and no session; nothing breaks."""
    await signed_in(name="ada")
    stranger = Browser(server)
    headers = SAME_ORIGIN | {"Content-Type": "application/x-www-form-urlencoded"}
    encoded = form if isinstance(form, bytes) else None
    if isinstance(form, dict) and any("\ud83d" in value for value in form.values()):
        form = {name: value.encode("utf-16", "surrogatepass").decode("utf-16") for name, value in form.items()}
    seen = await stranger.post("/admin/sign-in", form if encoded is None else encoded, headers)
    # A good name and password get in even where what was to be gone on with is nothing: only that is refused.
    if isinstance(form, dict) and "pending_form" in form:
        assert "entered before signing in cannot be read" in seen.text
        return
    assert seen.status in {400, 401}, seen.status
    assert "__Host-session" not in stranger.cookies
    assert PASSWORD not in seen.text


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "text/plain", "application/json", ""])
async def test_a_form_of_another_kind_is_refused(signed_in: SignedIn, content_type: str) -> None:
    """A form is read in the one way browsers send them, so that no proxy and we can differ about what it says."""
    browser = await signed_in()
    seen = await browser.ask(
        "POST", "/admin/tokens", headers=SAME_ORIGIN | {"Content-Type": content_type}, data=b"q=GID_plant@@@d1"
    )
    assert seen.status == 400


class Tags(HTMLParser):
    """The names of a page's elements and of their attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep them."""
        self.seen |= {tag, *(name for name, _ in attrs)}


EVALUATED = "q7" * 20
"""What a template makes of an expression below; no handle, token or figure holds it by chance."""

EVIL = (
    "<xss>",
    "\"'><xss x-evil=1 onload=alert(1)>",
    "' x-evil=1 autofocus='",
    "</textarea></title></code><xss>",
    "<!--<xss>",
    f"{{{{'{EVALUATED[:2]}'*20}}}}{{%raw%}}",
    "%(name)s%%",
    "\x00\x1b[31m\x7f\u202e\u2028<xss>",
    "javascript:alert(1)",
    "x" * 10_000,
)


def check_harmless(seen: Seen, where: object) -> None:
    """See that nothing that was put in has become part of the page, and that nothing broke."""
    assert seen.status < 500, (where, seen.status)
    if not seen.headers.get("Content-Type", "").startswith("text/html"):
        # No browser takes it for a page.
        assert seen.status == 303 or seen.headers.get("Content-Disposition", "").startswith("attachment"), where
        return
    tags = Tags(seen.text).seen
    assert not tags & {"xss", "x-evil", "onload", "style"}, where
    assert EVALUATED not in seen.text, where
    assert not re.search("[\x00\x1b\x7f]", seen.text), where
    assert not re.search(r'(?:href|src|action)="\s*(?:javascript|data):', seen.text, re.IGNORECASE), where


def fields_of(type_: type[RequestModel]) -> list[str]:
    """Return what a page asks for, and one field more than it knows."""
    return [*(each.name for each in msgspec.structs.fields(type_)), "<xss>"]


LINE = 7000
"""A longer address is refused before it comes to us."""


@pytest.mark.timeout(180)  # some two thousand requests
async def test_nothing_that_is_sent_becomes_part_of_a_page(signed_in: SignedIn, caller: Caller) -> None:
    """Markup, control characters and texts without end, in every field, query and address: text they were and stay."""
    await caller.token()
    browser = await signed_in(OperatorRole.ADMIN)
    for evil in EVIL:
        for page in GETS:
            if "{" in page.path and len(evil) < 1000:
                path = address(page, evil)
                check_harmless(await browser.get(path), path)
            for field in (*fields_of(page.model("query")), "done"):
                check_harmless(await browser.get(address(page), **{field: evil[:LINE]}), (page.path, field, evil))
        for page in POSTS:
            for field in fields_of(page.model("form")):
                seen = await browser.post(address(page), {field: evil})
                check_harmless(seen, (page.path, field, evil))
        for path, form in (("/admin/sign-in", SignInForm), ("/admin/language", LanguageForm)):
            for field in fields_of(form):
                seen = await Browser(browser.client).post(path, {field: evil})
                check_harmless(seen, (path, field, evil))
        check_harmless(await Browser(browser.client).get("/admin/sign-in", to=evil[:LINE]), evil)


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """A policy whose topics hold markup, as far as topics can."""
    path = tmp_path / "policy.toml"
    path.write_text(
        """
[roles.sensor]
match = ["GID_plant@@@*"]
publish = ["plant/<xss/x-evil=1>/up/#", "plant/'><xss>"]
subscribe = ["plant/{device_id}/&lt;/#"]
"""
    )
    return path


async def test_nothing_that_is_stored_becomes_part_of_a_page(
    signed_in: SignedIn, registry: Registry, server: TestClient[Any, Any]
) -> None:
    """A note and a topic are shown with their markup as text, on every page that shows them."""
    note = f"</code><xss x-evil=1>' & \" \u202e {{{{'{EVALUATED[:2]}'*20}}}}"
    assert note.isprintable() is False
    note = note.replace("\u202e", "三")
    added = await registry.add_device(Registration(CLIENT_ID, note=note), actor=CLI)
    assert added.secret
    token = (await Caller(server, ISSUER, CLIENT_ID, added.secret.reveal()).token()).body
    browser = await signed_in(OperatorRole.ADMIN)
    shown = ""
    for page in GETS:
        for path in {address(page), address(page, token["handle"]), address(page, CLIENT_ID)}:
            seen = await browser.get(path)
            check_harmless(seen, path)
            shown += seen.text
    assert "plant/&lt;xss/x-evil=1&gt;/up/#" in shown
    assert "&lt;/code&gt;&lt;xss x-evil=1&gt;&#39; &amp; &#34; 三 {{&#39;q7&#39;*20}}" in shown


def walk(text: str) -> Iterator[str]:
    """Yield the parts of a page that no strict policy would let run."""
    yield from re.findall(r"<(?:style|script(?! src=))[^>]*>|\s(?:style|on[a-z]+)=\"", text)


async def test_no_page_needs_what_the_policy_forbids(signed_in: SignedIn, caller: Caller) -> None:
    """No page has a script, a style or a handler of its own, or leads to another server's files."""
    await caller.token()
    browser = await signed_in(OperatorRole.ADMIN)
    for page in GETS:
        seen = await browser.get(address(page))
        assert list(walk(seen.text)) == [], page.path
        assert re.findall(r'\ssrc="(?!/admin/static/)[^"]*"', seen.text) == [], page.path


def test_a_translatable_text_is_made_legible_like_any_other() -> None:
    """A control character in a value of a ``Text`` becomes a mark, and does not break the page."""
    assert _replace_illegible(Text("bad %(what)s", {"what": "a\x00b"})) == "bad a\ufffdb"
    marked = _replace_illegible(Markup("<b>\x00</b>"))
    assert isinstance(marked, Markup)
    assert marked == "<b>\ufffd</b>"
