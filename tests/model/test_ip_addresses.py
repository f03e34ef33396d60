from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.ip_addresses import contains, network_of, parse_address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:DB8:1:2:0:0:0:1", "2001:db8:1:2::2"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_what_counts_as_one_source(one: str, other: str) -> None:
    """The /64 that one customer has, and an IPv4 address in either form."""
    assert network_of(one) == network_of(other)


def test_what_counts_as_two_sources() -> None:
    """Neighbors do not slow each other down."""
    addresses = ["192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1", "unix:", ""]
    assert len({network_of(address) for address in addresses}) == len(addresses)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_one_address_in_both_forms(address: ipaddress.IPv4Address) -> None:
    """No client gets a second count by the other form, and a trusted proxy is recognized in either."""
    mapped = parse_address(f"::ffff:{address}")
    assert mapped == address
    assert contains([ipaddress.ip_network(address)], mapped)


@given(st.text(max_size=50))
def test_other_text_is_not_an_address(text: str) -> None:
    """Whatever a header holds: it is an address, or nothing, and never an error."""
    parsed = parse_address(text)
    assert parsed is None or parse_address(str(parsed)) == parsed
    assert not contains([ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")], None)
