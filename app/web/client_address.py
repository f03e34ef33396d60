"""The address that a request comes from, for all limits by address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import structlog
from aiohttp import web

from app.model.ip_addresses import IpAddress, Networks, contains, parse_address

log = structlog.get_logger(__name__)

_HEADER: Final = "X-Forwarded-For"
_WITH_PORT: Final = re.compile(r"(?:\[([^]]*)\]|([\d.]+))(?::\d{1,5})?")
"""An IPv6 address in brackets, or an IPv4 address: some load balancers append the port."""


class ClientAddresses:
    """Finds the client's address behind load balancers.

    Each of them appends the address that it was called from to ``X-Forwarded-For``. What is left of that came from the
    client, which may write anything there. So an entry is believed only if a trusted proxy wrote it.
    """

    def __init__(self, trusted: Networks) -> None:
        """Believe the proxies in ``trusted``."""
        self._trusted = trusted
        self._has_reported = False

    def address_of(self, request: web.Request) -> str:
        """Return the client's IP address, or an empty text if it is not known.

        A trusted proxy is never the client. Many are behind it, and one of them could use up the limits of all.
        """
        address = parse_address(request.remote or "")
        if contains(self._trusted, address):
            address = self._forwarded(request)
        elif _HEADER in request.headers:
            self._report_untrusted(address)
        return "" if address is None else str(address)

    def _forwarded(self, request: web.Request) -> IpAddress | None:
        """Return the last entry that is not a trusted proxy; None if that is not an address, or there is none."""
        for entry in _last_first(request):
            address = _parse_entry(entry)
            if not contains(self._trusted, address):
                return address
        return None

    def _report_untrusted(self, peer: IpAddress | None) -> None:
        """Log once that a header was ignored: if a load balancer sent it, all clients count as one address."""
        if not self._has_reported:
            self._has_reported = True
            log.warning(
                "forwarded_for_ignored",
                peer=str(peer or "unknown"),
                cure="if it is a load balancer, add it to TRUSTED_PROXIES: until then its clients count as one address",
            )


CLIENT_ADDRESSES: Final = web.AppKey("client_addresses", ClientAddresses)


def client_address(request: web.Request) -> str:
    """Return the IP address of the client that sent a request, or an empty text if it is not known."""
    return request.app[CLIENT_ADDRESSES].address_of(request)


def _last_first(request: web.Request) -> Iterator[str]:
    """Yield the entries of all headers of that name, the last one first; empty ones are left out (RFC 9110 5.6.1)."""
    for header in reversed(request.headers.getall(_HEADER, [])):
        yield from filter(None, (entry.strip() for entry in reversed(header.split(","))))


def _parse_entry(entry: str) -> IpAddress | None:
    with_port = _WITH_PORT.fullmatch(entry)
    return parse_address(with_port[1] or with_port[2] if with_port else entry)
