"""IP addresses: reading them, and what counts as one source of requests."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


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


def contains(networks: Networks, address: IpAddress | None) -> bool:
    """Return whether an address is in one of ``networks``; None is in no network."""
    return address is not None and any(address in network for network in networks)


def network_of(address: str) -> str:
    """Return what counts as one source: of IPv6 the /64, all of which belongs to one subscriber."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return str(parsed or address)
