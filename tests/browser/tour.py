"""Every page of the console, from the route table, with URLs that show data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlencode

from app.web.routes import CONSOLE
from tests.browser.site import Site

_VARIABLE: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_NO_PAGES: Final = {"/admin/{rest:.*}", "/admin/audit.csv"}
"""Routes that are not pages: static files, and the page for unknown addresses, which is in ``MORE``."""

MORE: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "tokens-of-a-device": ("/admin/tokens", {"client_id": "{client_id}"}),
    "tokens-by-topic": ("/admin/tokens", {"topic": "plant/d07/up/#"}),
    "tokens-none": ("/admin/tokens", {"role": "dashboard"}),
    "token-revoked": ("/admin/tokens/{revoked_handle}", {}),
    "token-failed": ("/admin/tokens/{failed_handle}", {}),
    "revoke-one": ("/admin/revoke", {"handle": "{handle}"}),
    "revoke-revoked": ("/admin/revoke", {"handle": "{revoked_handle}"}),
    "revoke-a-device": ("/admin/revoke", {"client_id": "{client_id}"}),
    "revoke-a-role": ("/admin/revoke", {"role": "sensor"}),
    "revoke-by-topic": ("/admin/revoke", {"topic": "pub:plant/+/up/#"}),
    "revoke-everything": ("/admin/revoke", {"all": "1"}),
    "revoked-one": ("/admin/revoked", {"handle": "{revoked_handle}"}),
    "revocations-failed": ("/admin/revocations", {"show": "failed"}),
    "devices-searched": ("/admin/devices", {"q": "press"}),
    "device-disabled": ("/admin/devices/{disabled_id}", {}),
    "device-with-much": ("/admin/devices/{gateway_id}", {}),
    "audit-of-a-device": ("/admin/audit", {"client_id": "{disabled_id}"}),
    "nothing": ("/admin/no/such/page", {}),
}
"""Pages in other states, by the name of their screenshots."""


def pages(site: Site) -> dict[str, str]:
    """Return the URL of each page that a link opens, by its name."""
    plain: dict[str, tuple[str, dict[str, str]]] = {
        page.path: (page.path, {}) for page in CONSOLE if page.method == "GET" and page.path not in _NO_PAGES
    }
    return {_name(name): _address(site, *page) for name, page in {**plain, **MORE}.items()}


def names() -> Iterator[str]:
    """Yield the names of all pages, without a site."""
    yield from (_name(page.path) for page in CONSOLE if page.method == "GET" and page.path not in _NO_PAGES)
    yield from MORE


def _name(path: str) -> str:
    return _VARIABLE.sub("ONE", path.removeprefix("/admin").strip("/")).replace("/", "-") or "overview"


def _address(site: Site, path: str, query: dict[str, str]) -> str:
    paths = site.paths | ({"name": site.paths["key"]} if path.startswith("/admin/keys") else {})
    full = _VARIABLE.sub(lambda match: quote(paths[match[1]], safe="@:"), path)
    filled = {name: _VARIABLE.sub(lambda match: site.paths[match[1]], value) for name, value in query.items()}
    return f"{full}?{urlencode(filled)}" if filled else full
