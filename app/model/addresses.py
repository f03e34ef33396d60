"""IP addresses as limits count them: which addresses are one source, and which are not limited."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Networks = Sequence[IPv4Network | IPv6Network]

_HOST_BITS: Final = 64


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that ``text`` is, or None; an IPv4 address also where a socket for both kinds names it."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_in(text: str, networks: Networks) -> bool:
    """Return whether ``text`` is an address in one of ``networks``."""
    address = parse_address(text)
    return address is not None and any(address in network for network in networks)


def source_of(text: str, unlimited: Networks) -> str | None:
    """Return the name under which an address is limited, or None for one that is not limited.

    That is the address itself, of IPv6 its first 64 bits: one host has all addresses that begin with them. A loopback
    address, one of ``unlimited`` and what is not an IP address (a Unix socket) are not limited.
    """
    address = parse_address(text)
    if address is None or address.is_loopback or any(address in network for network in unlimited):
        return None
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)}/{_HOST_BITS}"
    return str(address)
