from __future__ import annotations

import ipaddress

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from structlog.testing import capture_logs

from app.web.client_address import ClientAddresses

BALANCERS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def request_of(peer: str, *forwarded: str) -> web.Request:
    """Return a request from ``peer`` with these ``X-Forwarded-For`` headers."""
    headers = CIMultiDict([("X-Forwarded-For", text) for text in forwarded])
    return make_mocked_request("POST", "/oauth/token", headers=headers).clone(remote=peer)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9", "fd00::2"], "203.0.113.9"),
        ("fd00::1", ["2001:DB8:0::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
        ("10.0.0.1", ["203.0.113.9, ,", ""], "203.0.113.9"),
    ],
)
def test_the_address_is_the_last_one_that_a_trusted_proxy_wrote(peer: str, forwarded: list[str], address: str) -> None:
    """A client cannot claim another address, to guess from it or to use up its limits: what it sends is on the left."""
    assert ClientAddresses(BALANCERS).address_of(request_of(peer, *forwarded)) == address


@pytest.mark.parametrize(
    "forwarded",
    [
        [],
        [""],
        ["10.9.9.9, 10.0.0.2"],
        ["unknown"],
        ["203.0.113.9, unknown"],
        ["203.0.113.9, <script>"],
        ["203.0.113.9, 203.0.113.9:port"],
        ["203.0.113.9, 1.2.3"],
        ["203.0.113.9, []:1"],
        ["x" * 5000],
    ],
)
def test_a_trusted_proxy_is_never_the_client(forwarded: list[str]) -> None:
    """One client behind it cannot use up the limits of all others, whatever it makes the proxy send."""
    assert ClientAddresses(BALANCERS).address_of(request_of("10.0.0.1", *forwarded)) == ""


@given(
    st.lists(st.text("0123456789abcdef.:, []unkow", max_size=30), max_size=4),
    st.sampled_from(["203.0.113.9", "2001:db8::5"]),
    st.lists(st.sampled_from(["10.0.0.2", "fd00::2", "::ffff:10.0.0.3"]), max_size=3),
)
def test_nothing_that_a_client_sends_changes_its_address(sent: list[str], client: str, proxies: list[str]) -> None:
    """However many headers it sends, and whatever is in them: the first trusted proxy writes the truth behind them."""
    request = request_of("10.0.0.1", *sent, ", ".join([client, *proxies]))
    assert ClientAddresses(BALANCERS).address_of(request) == client


def test_without_a_trusted_proxy_the_header_is_ignored_and_that_is_logged_once() -> None:
    """By default anyone could have written it; where a load balancer did, the operator learns what to set."""
    addresses = ClientAddresses(())
    with capture_logs() as entries:
        assert addresses.address_of(request_of("198.51.100.7")) == "198.51.100.7"
        assert entries == []
        for _ in range(3):
            assert addresses.address_of(request_of("127.0.0.1", "203.0.113.9")) == "127.0.0.1"
    [entry] = entries
    assert (entry["event"], entry["peer"]) == ("forwarded_for_ignored", "127.0.0.1")
    assert "TRUSTED_PROXIES" in entry["cure"]
