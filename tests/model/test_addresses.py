from __future__ import annotations

from ipaddress import ip_network

import pytest

from app.model.addresses import source_of

PROXIES = (ip_network("10.0.0.0/24"), ip_network("2001:db8:ffff::1"))


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("10.0.1.1", "10.0.1.1"),
    ],
)
def test_an_address_is_limited_with_all_that_its_host_has(address: str, source: str) -> None:
    """A host has one IPv4 address, but 2**64 IPv6 addresses: it gets no new allowance with each of them."""
    assert source_of(address, PROXIES) == source


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "10.0.0.7", "2001:db8:ffff::1", "", "not one"]
)
def test_loopback_and_proxies_are_not_limited(address: str) -> None:
    """Behind a load balancer all devices have its address; a Unix socket has none."""
    assert source_of(address, PROXIES) is None
