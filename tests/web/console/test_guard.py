"""Who may do what: another site nothing, a role what its pages say; and who is believed to come from where."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request

from app.model.operators import Role
from app.web.console.guard import TRUSTED_PROXIES, address_of
from app.web.routes import CONSOLE
from tests.web.conftest import ISSUER
from tests.web.console.conftest import PASSWORD, Browser, SignedIn

LOOKING = {"/admin/tokens", "/admin/devices/{client_id}/credential"}
"""To these a viewer sends forms: what is sought may be a token, and asking the cloud bills a call. Neither changes."""

FOREIGN: list[dict[str, str]] = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ISSUER.replace("https", "http")},
    {"Origin": f"{ISSUER}.evil.example"},
    {"Origin": f"{ISSUER}:8443"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": ISSUER, "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
]


def filled(path: str) -> str:
    """Return an address of a route."""
    return re.sub(r"{[^}]+}", "x", path)


def posts(server: TestClient[Any, Any]) -> set[str]:
    """Return the address of each route of the console that takes a form."""
    routes = [(route.method, route.resource) for route in server.app.router.routes()]
    paths = {resource.canonical for method, resource in routes if method == "POST" and resource}
    return {path for path in paths if path.startswith("/admin")}


@pytest.mark.parametrize("headers", FOREIGN)
async def test_no_form_of_another_site_is_taken(
    server: TestClient[Any, Any], signed_in: SignedIn, headers: dict[str, str]
) -> None:
    """At no address, with a session or without: an admin who looks at an evil page does nothing by it."""
    admin = await signed_in(Role.ADMIN, "ada")
    found = posts(server)
    assert {"/admin/sign-in", "/admin/sign-out", "/admin/language", "/admin/revoke"} < found
    for path in found:
        for browser in (admin, Browser(server)):
            seen = await browser.post(filled(path), {"name": "ada", "password": PASSWORD}, headers=headers)
            assert seen.status == 403, path
            assert not seen.cookies, path
    assert (await admin.get("/admin/")).status == 200


async def test_whoever_has_a_lesser_role_is_refused_everywhere(
    server: TestClient[Any, Any], signed_in: SignedIn
) -> None:
    """Each page is for its role and those above; nothing but looking is for everybody."""
    browsers = {role: await signed_in(role) for role in Role}
    for page in CONSOLE:
        for role, browser in browsers.items():
            path = filled(page.path)
            seen = await (browser.get(path) if page.method == "GET" else browser.post(path))
            refused = seen.status == 403 and f"this takes the role {page.role}" in seen.text
            assert refused is not role.covers(page.role), (role, page.method, page.path)
    assert {page.path for page in CONSOLE if page.method == "POST" and page.role is Role.VIEWER} == LOOKING
    assert {page.path for page in CONSOLE if page.method == "POST"} | {
        "/admin/sign-in",
        "/admin/sign-out",
        "/admin/language",
    } == posts(server)


BALANCER = "10.88.0.2"
STRANGER = "198.51.100.7"


def address(remote: str, *forwarded: str) -> str:
    """Return what counts as the address of a request, with the networks of BALANCER trusted."""
    app = web.Application()
    app[TRUSTED_PROXIES] = [ipaddress.ip_network("10.88.0.0/24"), ipaddress.ip_network("2001:db8::/64")]
    transport = Mock(get_extra_info=lambda name, _=None: (remote, 1) if name == "peername" else None)
    headers = [("X-Forwarded-For", line) for line in forwarded]
    return address_of(make_mocked_request("POST", "/admin/sign-in", headers, app=app, transport=transport))


@pytest.mark.parametrize(
    ("remote", "forwarded"),
    [
        (STRANGER, []),
        (STRANGER, ["192.0.2.1"]),
        (STRANGER, [BALANCER]),
        (BALANCER, [STRANGER]),
        (BALANCER, [f"192.0.2.1, {STRANGER}"]),
        (BALANCER, ["192.0.2.1", STRANGER]),
        (BALANCER, [f"192.0.2.1, {STRANGER}, 10.88.0.3"]),
        ("2001:db8::1", [STRANGER]),
        (f"::ffff:{BALANCER}", [STRANGER]),
        (BALANCER, [f"{STRANGER}, ::ffff:10.88.0.3"]),
    ],
)
def test_only_a_trusted_balancer_is_believed(remote: str, forwarded: list[str]) -> None:
    """Nobody gets a fresh count of guesses by naming another address, nor shares one because of the balancer."""
    assert address(remote, *forwarded) == STRANGER


@pytest.mark.parametrize("forwarded", [[], [""], ["unknown"], ["<b>"], [f"{STRANGER}:80"], ["10.88.0.9"]])
def test_what_is_no_address_is_none(forwarded: list[str]) -> None:
    """Then it is the balancer's, or what it says of another balancer."""
    assert address(BALANCER, *forwarded) in {BALANCER, "10.88.0.9"}
