"""IP addresses: reading them, and what counts as one source of requests."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Sequence[IpNetwork]

_MAPPED_BITS: Final = 96
"""The prefix of ``::ffff:0:0/96``, which holds all IPv4 addresses."""


@lru_cache(maxsize=10_000)
def parse_address(text: str) -> IpAddress | None:
    """Return an address without its zone, or None for anything else.

    An IPv4 address that is written as an IPv6 address (``::ffff:192.0.2.1``) is the IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))
    return parsed


def parse_network(text: str) -> IpNetwork:
    """Return a network, or an address as a network of one. Raises ``ValueError``.

    One of IPv4 addresses that is written in IPv6 is the IPv4 network, as the addresses in it are for ``parse_address``.
    """
    parsed = ipaddress.ip_network(text)
    mapped = parsed.network_address.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Network) else None
    if mapped is None or parsed.prefixlen < _MAPPED_BITS:
        return parsed
    return ipaddress.IPv4Network((int(mapped), parsed.prefixlen - _MAPPED_BITS))


def contains(networks: Networks, address: IpAddress | None) -> bool:
    """Return whether an address is in one of ``networks``; None is in no network."""
    return address is not None and any(address in network for network in networks)


def network_of(address: str) -> str:
    """Return what counts as one source: of IPv6 the /64, all of which belongs to one subscriber."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return str(parsed or address)
