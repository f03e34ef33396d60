"""Where an operator comes from: what is believed of it, and of whom."""

from __future__ import annotations

import ipaddress
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from app.web.console.guard import TRUSTED_PROXIES, address_of

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
